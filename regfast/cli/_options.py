"""Options that several commands share, and the small grammar of numbers and lists that they understand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import torch

Dataset = Annotated[
    str,
    typer.Option(help="noisy-digits, digits, cifar10, cifar100, imagefolder or npz.", rich_help_panel="Data and model"),
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
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; by default what PyTorch chooses.")]

Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 …; by default a GPU where there is one.")]


def number(text: str, option: str) -> float:
    """A number, or a fraction such as 8/255."""
    try:
        numerator, _, denominator = text.partition("/")
        return float(numerator) / float(denominator) if denominator else float(numerator)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{option} expects numbers such as 0.03 or 8/255, got {text!r}") from None


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
