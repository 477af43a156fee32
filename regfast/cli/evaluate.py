"""`regfast evaluate`: attacks over a whole data set, on one process or under torchrun; resumable."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regfast.cli._attacks import build_attack, build_factory, is_factory
from regfast.cli._console import console
from regfast.cli._options import DataRoot, Dataset, Download, Seed, Threads, numbers, use_threads

if TYPE_CHECKING:
    from torch import Tensor

_DATA, _RUN = "Data and model", "How it runs"


def evaluate(
    model: Annotated[
        str,
        typer.Option(
            help="small-cnn, resnet20 …, torchvision:NAME, timm:NAME, or your own module.path:factory.",
            rich_help_panel=_DATA,
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="Folder of the run. An unfinished one goes on.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="safetensors or a state dict.", rich_help_panel=_DATA)] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Published weights by name, such as DEFAULT; may download.", rich_help_panel=_DATA),
    ] = None,
    dataset: Dataset = "noisy-digits",
    data_root: DataRoot = None,
    download: Download = False,
    limit: Annotated[
        int | None, typer.Option(min=0, help="Take the first so many of a seeded shuffle.", rich_help_panel=_DATA)
    ] = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(help="An attack, with options: pgd, pgd:steps=40,restarts=5, autoattack, … Can be repeated."),
    ] = None,
    norm: Annotated[str, typer.Option(help="linf, l2 or l1.")] = "linf",
    eps: Annotated[str, typer.Option(help="One radius or several: 0.03 or 0.5/255,1/255,2/255.")] = "8/255",
    seed: Seed = 0,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print expected evaluations, time and memory; run nothing.")
    ] = False,
    lanes: Annotated[int | None, typer.Option(min=1, help="Samples attacked at once.", rich_help_panel=_RUN)] = None,
    chunk_size: Annotated[
        int | None, typer.Option(min=1, help="Samples a worker draws at once.", rich_help_panel=_RUN)
    ] = None,
    precision: Annotated[
        str, typer.Option(help="float32, or bf16: search in bfloat16, confirm in float32.", rich_help_panel=_RUN)
    ] = "float32",
    compile_model: Annotated[bool, typer.Option("--compile", help="torch.compile it.", rich_help_panel=_RUN)] = False,
    save_images: Annotated[
        bool, typer.Option("--save-images", help="Keep adversarial images (safetensors).", rich_help_panel=_RUN)
    ] = False,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda:0 …; by default a GPU where there is one.", rich_help_panel=_RUN)
    ] = None,
    threads: Threads = None,
) -> None:
    """Attack a whole data set: robust accuracy with intervals, one row a sample, nothing lost.

    The same command runs on one process or under torchrun:
    torchrun --nproc-per-node 8 -m regfast evaluate … An interrupted run goes on when the command is repeated.
    """
    from regfast.data import load_images
    from regfast.evaluation import evaluate as run
    from regfast.models import load_model

    use_threads(threads)
    if out is None and not plan:
        raise ValueError("--out is needed: the folder of the run")
    names = attack or ["pgd"]
    attacks = [build_attack(spec, norm=norm, eps=value) for spec in names for value in numbers(eps, "--eps")]
    network: Callable[[Tensor], Tensor]
    if is_factory(model):
        if checkpoint or weights:
            raise ValueError("--checkpoint and --weights are for models by name; your factory loads its own")
        network = build_factory(model)
        data = load_images(dataset, data_root, download=download)
    elif dataset == "imagefolder":  # prepared as the model's weights expect
        network = load_model(model, checkpoint, weights=weights, seed=seed)
        data = load_images(dataset, data_root, transform=network.preprocess)
    else:
        data = load_images(dataset, data_root, download=download)
        network = load_model(model, checkpoint, weights=weights, seed=seed, in_channels=len(data[0][0]))
    leads = os.environ.get("RANK", "0") == "0"
    if leads:
        console.print(_what(network, model, data, dataset, limit))
    if plan:
        from regfast.evaluation.plan import plan_evaluation, plan_markdown

        workers = int(os.environ.get("WORLD_SIZE", "1"))
        expected = plan_evaluation(
            network, data, attacks, seed=seed, limit=limit, lanes=lanes, precision=precision, device=device or "cpu"
        )
        console.print(plan_markdown(expected, workers), markup=False)
        return
    assert out is not None
    result = run(
        network,
        data,
        attacks,
        out=out,
        seed=seed,
        limit=limit,
        model_name=model,
        dataset_name=dataset,
        lanes=lanes,
        chunk_size=chunk_size,
        precision=precision,
        compile=compile_model,
        save_images=save_images,
        device=device,
        command=shlex.join(["regfast", *sys.argv[1:]]),
    )
    if leads:
        console.print((result.folder / "summary.md").read_text(encoding="utf-8"), markup=False)
        console.print(f"rows, summary and curves: {result.folder}")


def _what(network: Any, model: str, data: Any, dataset: str, limit: int | None) -> str:
    """What is going to be attacked, normalisation first: the commonest mistake is to normalise twice, or not at all."""
    normalize = getattr(network, "normalize", None)
    if normalize is None:
        inside = "images in [0, 1] as they are"
    elif normalize.identity:
        inside = "images in [0, 1], no normalisation inside"
    else:
        mean, std = ([round(float(x), 4) for x in tensor.flatten()] for tensor in (normalize.mean, normalize.std))
        inside = f"images in [0, 1], normalised inside with mean {mean}, std {std}"
    count = len(data) if limit is None else min(limit, len(data))
    return f"model {model}: {inside}\ndata {dataset}: {count} of {len(data)} images, shape {tuple(data[0][0].shape)}"
