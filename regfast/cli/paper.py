"""`regfast paper`: every figure and table of the paper, and what goes beyond them, on one page."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from regfast.cli._console import end, leading
from regfast.cli._options import (
    DataRoot,
    Device,
    Download,
    Page,
    RecipeName,
    Regularizers,
    Size,
    Threads,
    Workers,
    pick_device,
    use_threads,
    whole_numbers,
)

_DATA = "Data and model"


def paper(
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            help="noisy-digits, digits, cifar10, cifar100, imagefolder or npz; may be repeated, the first is the "
            "main one. By default noisy-digits and digits.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    data_root: DataRoot = None,
    download: Download = False,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="small-cnn, resnet20 …, torchvision:NAME, timm:NAME or your own module:factory; may be repeated, "
            "every one on every data set.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    size: Size = "full",
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; by default runs/paper-SIZE. An unfinished one goes on.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, such as 0,1,2: one training run each.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the data.")] = None,
    regularizer: Regularizers = None,
    recipe: RecipeName = None,
    label: Annotated[int, typer.Option(min=0, help="Class whose loss and gradients are drawn (Fig. 2 and 5).")] = 3,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, help="Measure on so many test images, drawn at random; by default all digits, 1,000 photographs."
        ),
    ] = None,
    device: Device = None,
    threads: Threads = None,
    workers: Workers = None,
    page: Page = True,
) -> None:
    """Make every figure and table of the paper, and what goes beyond them, and put them on one page.

    The default trains and attacks on three pairs of data and model. Ctrl-C leaves a run that the same command finishes.
    Under torchrun the ranks share the work.
    """
    from regfast.paper import paper_config, run_paper
    from regfast.runs.errors import user_input
    from regfast.runs.progress import Steps
    from regfast.study import default_workers

    with user_input():
        use_threads(threads)
        config = paper_config(
            size,
            dataset,
            model,
            data_root=None if data_root is None else str(data_root),
            label=label,
            recipe=recipe,
            epochs=epochs,
            seeds=None if seeds is None else whole_numbers(seeds, "--seeds"),
            regularizers=regularizer or None,
            limit=limit,
        )
        place = pick_device(device)
    folder = out or Path("runs") / f"paper-{size}"
    alone = place.type != "cpu" or threads is not None
    usual = 1 if alone else min(default_workers(study.dataset) for study in config.studies)
    command = shlex.join(["regfast", *sys.argv[1:]])
    leads = leading()
    with Steps(show=leads) as shown:
        did = run_paper(
            config,
            folder,
            download=download,
            workers=workers or usual,
            device=None if device is None else place,
            command=command,
            progress=shown,
        )
    if leads:
        end(folder, did=did, page=page)
