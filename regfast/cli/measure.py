"""`regfast measure`: any trained networks, measured and compared on one page; on one process or under torchrun."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from regfast.cli._attacks import changed_attacks
from regfast.cli._console import console, end, leading, metrics_text, show
from regfast.cli._options import (
    ClassMap,
    DataRoot,
    Dataset,
    Device,
    Download,
    EpsLinf,
    MoreAttacks,
    Page,
    StrongSteps,
    Threads,
    pick_device,
    use_threads,
)

_ATTACKS = "Attacks and measurement"


def measure(
    network: Annotated[
        list[str],
        typer.Option(
            help="NAME=MODEL@CHECKPOINT, or @WEIGHTS of torchvision and timm; several with commas are seeds of one "
            "kind. MODEL: resnet20 …, torchvision:NAME, timm:NAME, or your own module:factory. Repeated: one a network."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run. An unfinished one goes on.")],
    dataset: Dataset = "noisy-digits",
    data_root: DataRoot = None,
    train_root: Annotated[
        Path | None,
        typer.Option(
            help="Folder or file of the training images, for class means and neural collapse.",
            rich_help_panel="Data and model",
        ),
    ] = None,
    download: Download = False,
    class_map: ClassMap = None,
    some_classes: Annotated[
        bool,
        typer.Option(
            "--some-classes", help="The data may lack some of the networks' classes.", rich_help_panel="Data and model"
        ),
    ] = False,
    preprocess: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME:resize=232,crop=224,interpolation=bilinear, and mean, std where the network does not normalize: "
            '"NAME:mean=0.5 0.5 0.5". Without NAME: for all. By default what the weights were published with.',
            rich_help_panel="Data and model",
        ),
    ] = None,
    size: Annotated[
        str, typer.Option(help="full (all images, 1,000 attacked), small (5,000, 200), or smoke (200, 16).")
    ] = "full",
    reference: Annotated[
        str | None, typer.Option(help="Name of the network that the others are compared with; by default the first.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Use so many images, those that evaluate takes; some of them are held out.",
            rich_help_panel=_ATTACKS,
        ),
    ] = None,
    attacked: Annotated[
        int | None, typer.Option(min=1, help="Attack so many of those measured.", rich_help_panel=_ATTACKS)
    ] = None,
    attack: MoreAttacks = None,
    eps_linf: EpsLinf = None,
    steps: StrongSteps = None,
    device: Device = None,
    threads: Threads = None,
    page: Page = True,
) -> None:
    """Measure trained networks and say on one page what the paper's effects are between them.

    The same command runs on one process or under torchrun:
    torchrun --nproc-per-node 8 -m regfast measure … An interrupted run goes on when the command is repeated.
    """
    from regfast.data import load_images
    from regfast.measurement import open_images, open_networks, run_measure, sized_measurement
    from regfast.runs.errors import user_input

    with user_input():
        use_threads(threads)
        if device is not None:
            pick_device(device)
        given: dict[str, Any] = {"limit": limit, "attacked": attacked}
        options = {name: value for name, value in given.items() if value is not None}
        usual = sized_measurement(size, dataset).attacks
        options["attacks"] = changed_attacks(usual, {"linf": eps_linf}, steps, attack or [])
        channels = None
        if dataset != "imagefolder":
            channels = load_images(dataset, data_root, download=download)[0][0].shape[0]
        networks = open_networks(network, preprocess or [], in_channels=channels)
        config = sized_measurement(size, dataset, classes=networks[0].num_classes, **options)
        images = open_images(
            dataset, data_root, networks, train_root=train_root, class_map=class_map, download=download
        )
    leads = leading()
    if leads:
        for line in (*(each.describe() for each in networks), *images.notes):
            console.print(line)
    result = run_measure(
        networks, images, config, out, reference=reference, some_classes=some_classes, device=device,
        command=shlex.join(["regfast", *sys.argv[1:]]),
    )  # fmt: skip
    if not leads:
        return
    show(metrics_text(result.metrics, "network"))
    end(out, did=result.did, page=page)
