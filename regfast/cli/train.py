"""`regfast train`: one regularizer, one seed, one checkpoint."""

from __future__ import annotations

import shlex
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from regfast.cli._console import console
from regfast.cli._options import (
    BatchSize,
    DataRoot,
    Dataset,
    Device,
    Download,
    Epochs,
    LearningRate,
    RecipeName,
    Seed,
    Threads,
    pick_device,
    use_threads,
)

_TRAINING, _RUNNING = "Training", "How it is computed"


def train(
    out: Annotated[Path, typer.Option(help="Checkpoint to write (.safetensors); curves go beside it (.json).")],
    regularizer: Annotated[
        str, typer.Option(help="hard, smoothing, mixup:alpha=0.4, maxsup … or your own module:Name.")
    ] = "smoothing",
    adversary: Annotated[
        str | None,
        typer.Option(
            help="Train on perturbed images: pgd:eps=8/255,steps=7, fgsm:random_start=true … or your own module:Name; "
            "also mode=train, keep=strongest, loss=kl."
        ),
    ] = None,
    dataset: Dataset = "noisy-digits",
    data_root: DataRoot = None,
    download: Download = False,
    model: Annotated[
        str | None,
        typer.Option(help="As for study; by default what suits the data set.", rich_help_panel="Data and model"),
    ] = None,
    recipe: RecipeName = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    ema: Annotated[
        float | None,
        typer.Option(
            help="Decay of a moving average of the weights, which is what is kept.", rich_help_panel=_TRAINING
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="float32, bf16 or fp16 (with a loss scale); loss and statistics are always float32.",
            rich_help_panel=_RUNNING,
        ),
    ] = None,
    channels_last: Annotated[
        bool | None, typer.Option(help="Memory format of images and weights.", rich_help_panel=_RUNNING)
    ] = None,
    compile: Annotated[  # noqa: A002
        bool | None, typer.Option(help="torch.compile the network.", rich_help_panel=_RUNNING)
    ] = None,
    accumulate: Annotated[
        int | None, typer.Option(help="Parts that a batch is cut in, to save memory.", rich_help_panel=_RUNNING)
    ] = None,
    sync_batchnorm: Annotated[
        bool | None, typer.Option(help="Batch norm over all ranks (GPUs only).", rich_help_panel=_RUNNING)
    ] = None,
    log: Annotated[str | None, typer.Option(help="Write the curves to tensorboard or wandb, where installed.")] = None,
    seed: Seed = 0,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Train one model with one regularizer and save it; `regfast attack --checkpoint` takes it from there.

    A training that was interrupted goes on with the same command, from its last epoch. Under torchrun all ranks train
    the model together.
    """
    from regfast.calibration import expected_calibration_error
    from regfast.cli._attacks import build_adversary
    from regfast.data import Splits, load_splits
    from regfast.data.loading import transformed
    from regfast.evaluation.identity import data_fingerprint
    from regfast.models import SplitClassifier, load_model, save_checkpoint
    from regfast.runs.errors import InputError, user_input
    from regfast.runs.files import remove_beside, write_json
    from regfast.runs.folder import alone
    from regfast.runs.group import join
    from regfast.runs.progress import Step, Steps
    from regfast.study import sized
    from regfast.study.run import DECISIVE, environment
    from regfast.training import REGULARIZERS, Epoch, SavedState, predict
    from regfast.training import train as run
    from regfast.training.log import open_log

    if out.is_dir() or out.suffix != ".safetensors":
        raise InputError(f"--out expects a file to write whose name ends in .safetensors, got {out}")
    with user_input():
        use_threads(threads)
        rule = REGULARIZERS.build(regularizer)
        attacker = None if adversary is None else build_adversary(adversary, seed)
        suited = sized("full", dataset, recipe=recipe)
        options: dict[str, Any] = {
            "epochs": epochs,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "ema": ema,
            "precision": precision,
            "channels_last": channels_last,
            "compile": compile,
            "accumulate": accumulate,
            "sync_batchnorm": sync_batchnorm,
        }
        chosen = replace(suited.recipe, **{name: value for name, value in options.items() if value is not None})
        splits = load_splits(dataset, data_root, download=download)
        workers = join(None if device is None else pick_device(device))
        here = environment(workers.device)
        network = load_model(
            model or suited.model, num_classes=splits.num_classes, in_channels=splits.image_shape[0], seed=seed
        ).to(workers.device)
        if network.preprocess is not None:
            parts = (transformed(part, network.preprocess) for part in (splits.train, splits.holdout, splits.test))
            splits = Splits(splits.name, *parts)
        facts = {
            "dataset": dataset,
            "data": {part: data_fingerprint(getattr(splits, part)) for part in ("train", "holdout")},
            "model": model or suited.model,
        }
    command = shlex.join(["regfast", *sys.argv[1:]])
    told = {"recipe": chosen.as_dict(), "regularizer": regularizer, "adversary": adversary, "seed": seed}
    config = {**facts, **told, "command": command, "environment": here}
    state = SavedState(out.with_suffix(".resume.pt"), {**facts, **{key: here[key] for key in DECISIVE}})
    with ExitStack() as held:
        held.enter_context(workers.watched())
        steps = held.enter_context(Steps(show=workers.leads))
        step, write = Step(steps), lambda epoch: None
        if workers.leads:
            held.enter_context(alone(out.with_name(f".{out.name}.lock")))
            remove_beside(out)
            begun = state.epochs
            steps.start(chosen.epochs, begun)
            steps.say("training")
            with user_input():
                write = held.enter_context(open_log(log, out.with_suffix(""), config, begun))

        def on_epoch(epoch: Epoch, _: SplitClassifier) -> None:
            step.finish()
            steps.say(str(epoch))
            write(epoch)

        history = run(
            network, splits.train, splits.holdout, rule, chosen, seed=seed, adversary=attacker, state=state,
            together=workers.size > 1, on_epoch=on_epoch, on_batch=step.reach,
        )  # fmt: skip
        if workers.leads:
            curves = [epoch.as_dict() for epoch in history]
            write_json(out.with_suffix(".json"), {"config": config, "epochs": curves})
            save_checkpoint(network.network_state(), out)
            state.remove()
        workers.leave()
    if not workers.leads:
        return
    _, logits, labels = predict(network, splits.test)
    confidence, prediction = logits.softmax(1).max(1)
    correct = prediction == labels
    ece = expected_calibration_error(confidence, correct)
    console.print(f"{out}: test accuracy {float(correct.double().mean()):.4f}, ECE {ece:.4f} on {len(labels)} images")
