"""Options that several commands share, and the small grammar of numbers and lists that they understand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import torch

Model = Annotated[
    str,
    typer.Option(
        help="small-cnn, resnet20 …, torchvision:NAME, timm:NAME, or your own module:factory.",
        rich_help_panel="Data and model",
    ),
]
Checkpoint = Annotated[Path | None, typer.Option(help="safetensors or a state dict.", rich_help_panel="Data and model")]
Weights = Annotated[
    str | None,
    typer.Option(help="Published weights by name, such as DEFAULT; may download.", rich_help_panel="Data and model"),
]
Dataset = Annotated[
    str,
    typer.Option(
        help="noisy-digits, digits, cifar10, cifar100, imagefolder, npz, or your own module:Name.",
        rich_help_panel="Data and model",
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(help="Folder or file that holds the data set; digits are built in.", rich_help_panel="Data and model"),
]
Download = Annotated[
    bool,
    typer.Option("--download", help="Let torchvision fetch CIFAR into --data-root.", rich_help_panel="Data and model"),
]
Regularizers = Annotated[
    list[str] | None,
    typer.Option(
        help="What to compare, repeated: mixup, maxsup:strength=0.2, module:Name, NAME=… for a name of your own; "
        "by default hard, smoothing, mixup and cutmix.",
        rich_help_panel="Training",
    ),
]
RecipeName = Annotated[
    str | None,
    typer.Option(
        help="digits, cifar, cifar-fast, imagenet or your own module:Name, with options: cifar-fast:epochs=30,"
        "precision=bf16; by default what suits the data set.",
        rich_help_panel="Training",
    ),
]
Epochs = Annotated[int | None, typer.Option(help="Passes over the data.", rich_help_panel="Training")]
BatchSize = Annotated[int | None, typer.Option(help="Images a step.", rich_help_panel="Training")]
LearningRate = Annotated[float | None, typer.Option(help="Its peak.", rich_help_panel="Training")]
MoreAttacks = Annotated[
    list[str] | None,
    typer.Option(
        help="One more attack, weak and strong, with options: apgd:loss=dlr, ddn, module:Class. Can be repeated. "
        "There are {attacks}.",
        rich_help_panel="Attacks and measurement",
    ),
]
EpsLinf = Annotated[
    str | None,
    typer.Option(help="WEAK,STRONG for linf, such as 1/255,4/255.", rich_help_panel="Attacks and measurement"),
]
StrongSteps = Annotated[
    int | None, typer.Option(min=1, help="Steps of the strong PGD.", rich_help_panel="Attacks and measurement")
]
ClassMap = Annotated[
    str | None,
    typer.Option(
        help="Which class each folder is: a file (NAME NUMBER lines or JSON), imagenet (WordNet ids), or folders "
        "(by name). Needed where the folders are some of the model's classes.",
        rich_help_panel="Data and model",
    ),
]
Resize = Annotated[
    int | None,
    typer.Option(min=1, help="Shorter side of an image file, in pixels.", rich_help_panel="Data and model"),
]
Crop = Annotated[
    int | None, typer.Option(min=1, help="Central square kept of it, in pixels.", rich_help_panel="Data and model")
]
Interpolation = Annotated[
    str | None, typer.Option(help="bilinear, bicubic, nearest, lanczos …", rich_help_panel="Data and model")
]
Limit = Annotated[
    int | None,
    typer.Option(min=1, help="Take so many images, drawn by --seed; all by default.", rich_help_panel="Data and model"),
]
Attacks = Annotated[
    list[str] | None,
    typer.Option(
        help="With options: pgd:steps=40,restarts=5, autoattack:version=fast, or your own module:Class. Can be "
        "repeated; pgd by default. There are {attacks}."
    ),
]
Norm = Annotated[str | None, typer.Option(help="linf, l2 or l1; by default linf where the attack leaves a choice.")]
Eps = Annotated[
    str | None,
    typer.Option(
        help="One radius or several, such as 0.03 or 1/255,2/255, in units of images in [0, 1]. By default 8/255 for "
        "linf, 0.5 for l2, 12 for l1."
    ),
]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything random.")]
Size = Annotated[str, typer.Option(help="full (3 seeds), small, or smoke, which only shows that everything works.")]
Page = Annotated[bool, typer.Option("--report/--no-report", help="Make figures and the page at the end.")]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Processes; by default one a core for digits (without --threads), else one."),
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; by default what PyTorch chooses.")]

Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 …; by default a GPU where there is one.")]


def number(text: str, option: str) -> float:
    """A number, or a fraction such as 8/255."""
    try:
        numerator, slash, denominator = text.partition("/")
        return float(numerator) / float(denominator) if slash else float(numerator)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{option} expects numbers such as 0.03 or 8/255, got {text!r}") from None


def check_radius(eps: float, norm: str) -> None:
    """Raise ValueError for a linf radius above 1, which reaches every image."""
    if norm == "linf" and eps > 1:
        raise ValueError(
            f"eps {eps:g}: images are in [0, 1], where a linf radius above 1 reaches every image; do you mean "
            f"{eps:g}/255?"
        )


def numbers(text: str, option: str) -> list[float]:
    """Numbers separated by commas."""
    return [number(part.strip(), option) for part in text.split(",")]


def whole_numbers(text: str, option: str) -> list[int]:
    """Integers separated by commas."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} expects whole numbers separated by commas, got {text!r}") from None


def use_threads(threads: int | None) -> None:
    """Set PyTorch's CPU threads for this process."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def pick_device(name: str | None) -> torch.device:
    """The device called `name`; without one the first GPU, or else the CPU."""
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return device
