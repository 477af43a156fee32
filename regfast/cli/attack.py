"""`regfast attack`: one model, one data set, one attack, a table."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from regfast.cli._attacks import build_attack
from regfast.cli._console import console
from regfast.cli._options import DataRoot, Dataset, Device, Download, Seed, Threads, numbers, pick_device, use_threads


def attack(
    model: Annotated[
        str,
        typer.Option(help="small-cnn, resnet20 …, torchvision:NAME or timm:NAME.", rich_help_panel="Data and model"),
    ],
    checkpoint: Annotated[
        Path | None, typer.Option(help="safetensors or a state dict.", rich_help_panel="Data and model")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Published weights by name, such as DEFAULT; may download.", rich_help_panel="Data and model"
        ),
    ] = None,
    dataset: Dataset = "noisy-digits",
    data_root: DataRoot = None,
    download: Download = False,
    method: Annotated[str, typer.Option("--attack", help="fgsm, pgd, apgd, fab, square, autoattack …")] = "pgd",
    norm: Annotated[str, typer.Option(help="linf, l2 or l1.")] = "linf",
    eps: Annotated[str, typer.Option(help="One radius or several, such as 0.03 or 1/255,2/255,4/255.")] = "0.03",
    steps: Annotated[int | None, typer.Option(min=1, help="Steps a run, for attacks that take them.")] = None,
    restarts: Annotated[int | None, typer.Option(min=1, help="Runs a sample, for attacks that take them.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Attack the first so many images.")] = None,
    lanes: Annotated[int | None, typer.Option(min=1, help="Samples attacked at once; by default what fits.")] = None,
    seed: Seed = 0,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Attack a model and print clean and robust accuracy, attack success rate and what it cost."""
    import sys

    import torch

    from regfast.data import load_images
    from regfast.models import load_model
    from regfast.statistics import wilson_interval

    use_threads(threads)
    attacks = [
        build_attack(method, norm=norm, eps=value, steps=steps, restarts=restarts) for value in numbers(eps, "--eps")
    ]
    if dataset == "imagefolder":  # prepared as the model's weights expect
        network = load_model(model, checkpoint, weights=weights)
        data = load_images(dataset, data_root, transform=network.preprocess)
    else:
        data = load_images(dataset, data_root, download=download)
        network = load_model(model, checkpoint, weights=weights, in_channels=len(data[0][0]))
    network = network.to(pick_device(device))
    chosen = torch.arange(len(data) if limit is None else min(limit, len(data)))
    images, labels = data.batch(chosen), data.labels[chosen]
    if network.num_classes < len(data.classes):
        raise ValueError(f"{model} has {network.num_classes} classes, {dataset} has {len(data.classes)}")
    title = f"{method} {norm} on {model}, {len(labels)} images of {dataset}"
    table = Table(title=title, caption="gradients and forwards: evaluations spent per image")
    for heading in ("eps", "clean", "robust", "95 %", "ASR", "gradients", "forwards", "seconds"):
        table.add_column(heading, justify="right")
    for each in attacks:
        start = time.perf_counter()
        result = each.run(network, images, labels, seed=seed, lanes=lanes, progress=sys.stderr.isatty())
        seconds = time.perf_counter() - start
        robust = wilson_interval(int(result.robust.sum()), len(labels))
        table.add_row(
            f"{each.eps:.4g}",
            f"{float(result.clean.double().mean()):.4f}",
            f"{result.robust_accuracy:.4f}",
            f"{float(robust.low):.2f}–{float(robust.high):.2f}",
            f"{result.success_rate:.4f}",
            f"{float(result.gradients.double().mean()):.1f}",
            f"{float(result.queries.double().mean()):.1f}",
            f"{seconds:.1f}",
        )
    console.print(table)
