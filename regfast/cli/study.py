"""`regfast study`: the whole experiment, from training to the page."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regfast.cli._attacks import changed_attacks
from regfast.cli._console import end, leading, metrics_text, show
from regfast.cli._options import (
    BatchSize,
    DataRoot,
    Dataset,
    Device,
    Download,
    Epochs,
    EpsLinf,
    LearningRate,
    MoreAttacks,
    Page,
    RecipeName,
    Regularizers,
    Size,
    StrongSteps,
    Threads,
    Workers,
    pick_device,
    use_threads,
    whole_numbers,
)

if TYPE_CHECKING:
    from regfast.study import StudyConfig

_TRAINING, _ATTACKS = "Training", "Attacks and measurement"


def study(
    dataset: Dataset = "noisy-digits",
    data_root: DataRoot = None,
    download: Download = False,
    model: Annotated[
        str | None,
        typer.Option(
            help="small-cnn, resnet20 …, torchvision:NAME, timm:NAME or your own module:factory; by default what suits "
            "the data set.",
            rich_help_panel="Data and model",
        ),
    ] = None,
    size: Size = "full",
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; by default runs/DATASET-SIZE. An unfinished one goes on.")
    ] = None,
    device: Device = None,
    threads: Threads = None,
    workers: Workers = None,
    parallel: Annotated[
        str,
        typer.Option(
            help="Under torchrun: units (the ranks share the models), ddp (they train each together), or auto (large "
            "models and images together)."
        ),
    ] = "auto",
    page: Page = True,
    seeds: Annotated[
        str | None, typer.Option(help="Seeds, such as 0,1,2: one training run each.", rich_help_panel=_TRAINING)
    ] = None,
    regularizer: Regularizers = None,
    recipe: RecipeName = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    attack: MoreAttacks = None,
    eps_linf: EpsLinf = None,
    eps_l2: Annotated[str | None, typer.Option(help="WEAK,STRONG for l2.", rich_help_panel=_ATTACKS)] = None,
    steps: StrongSteps = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Measure on so many test images, drawn at random.", rich_help_panel=_ATTACKS),
    ] = None,
) -> None:
    """Train with each regularizer, attack, measure, and say on one page whether the paper's effects appear.

    The default takes a few minutes on two cores. Ctrl-C leaves a run that the same command finishes. Under
    torchrun the ranks share the models.
    """
    from regfast.report import need_extra
    from regfast.runs.errors import user_input
    from regfast.runs.files import read_json
    from regfast.runs.progress import Steps
    from regfast.study import default_workers, run_study, sized

    if page:
        need_extra()  # before an hour of work
    with user_input():
        use_threads(threads)
        place = pick_device(device)
        chosen = _changed(
            sized(
                size, dataset, recipe=recipe, **_given(model=model, limit=limit, data_root=data_root and str(data_root))
            ),
            regularizers=regularizer,
            seeds=seeds,
            recipe=_given(epochs=epochs, batch_size=batch_size, learning_rate=learning_rate),
            eps={"linf": eps_linf, "l2": eps_l2},
            steps=steps,
            more=attack or [],
        )
    folder = out or Path("runs") / f"{dataset}-{size}"
    command = shlex.join(["regfast", *sys.argv[1:]])
    usual = default_workers(dataset) if place.type == "cpu" and threads is None else 1
    leads = leading()
    with Steps(show=leads) as shown:
        did = run_study(
            chosen,
            folder,
            download=download,
            workers=workers or usual,
            device=None if device is None else place,
            parallel=parallel,
            command=command,
            progress=shown,
        )
    if not leads:
        return
    show(metrics_text(read_json(folder / "metrics.json")["regularizers"], "regularizer"))
    end(folder, did=did, page=page)


def _changed(
    config: StudyConfig,
    *,
    regularizers: list[str] | None,
    seeds: str | None,
    recipe: dict[str, Any],
    eps: dict[str, str | None],
    steps: int | None,
    more: list[str],
) -> StudyConfig:
    """`config` with the options that the user gave."""
    from dataclasses import replace

    from regfast.study import named_regularizers

    return replace(
        config,
        regularizers=named_regularizers(regularizers) if regularizers else config.regularizers,
        seeds=config.seeds if seeds is None else tuple(whole_numbers(seeds, "--seeds")),
        recipe=replace(config.recipe, **recipe),
        attacks=changed_attacks(config.attacks, eps, steps, more),
    )


def _given(**options: Any) -> dict[str, Any]:
    """Options that the user gave a value."""
    return {name: value for name, value in options.items() if value is not None}
