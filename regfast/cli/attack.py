"""`regfast attack`: one model, one data set, some attacks, a table."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regfast.cli import _options as options
from regfast.cli._attacks import build_attacks
from regfast.cli._console import console, show
from regfast.cli._inputs import open_inputs

if TYPE_CHECKING:
    from regfast.attacks.base import AttackResult, Runnable


def attack(
    model: options.Model,
    checkpoint: options.Checkpoint = None,
    weights: options.Weights = None,
    dataset: options.Dataset = "noisy-digits",
    data_root: options.DataRoot = None,
    download: options.Download = False,
    class_map: options.ClassMap = None,
    resize: options.Resize = None,
    crop: options.Crop = None,
    interpolation: options.Interpolation = None,
    limit: options.Limit = None,
    attack: options.Attacks = None,
    norm: options.Norm = None,
    eps: options.Eps = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps a run, for attacks that take them.")] = None,
    restarts: Annotated[int | None, typer.Option(min=1, help="Runs a sample, for attacks that take them.")] = None,
    lanes: Annotated[int | None, typer.Option(min=1, help="Samples attacked at once; by default what fits.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Result file (JSON); by default a new one under runs/attacks.")
    ] = None,
    seed: options.Seed = 0,
    device: options.Device = None,
    threads: options.Threads = None,
) -> None:
    """Attack a model and print clean and robust accuracy, attack success rate and what it cost.

    An attack without a radius of its own (fmn:eps=none) looks for the nearest adversarial image of each sample; one
    run then answers for every --eps.
    """
    import torch

    import regfast
    from regfast.data import pick_samples
    from regfast.evaluation.summary import results_table, share
    from regfast.runs.errors import user_input
    from regfast.runs.files import make_folder, write_json

    with user_input():
        options.use_threads(threads)
        place = options.pick_device(device)
        attacks = [
            each
            for spec in attack or ["pgd"]
            for each in build_attacks(spec, norm, eps, steps=steps, restarts=restarts)
        ]
        radii = options.numbers(eps, "--eps") if eps else []
        path = out or Path("runs/attacks") / f"{time.strftime('%Y-%m-%d-%H%M%S')}-{model.replace(':', '-')}.json"
        given = open_inputs(
            model, checkpoint, weights, dataset, data_root, download=download, seed=seed, class_map=class_map,
            resize=resize, crop=crop, interpolation=interpolation,
        )  # fmt: skip
    make_folder(path.parent)
    chosen = torch.tensor(pick_samples(len(given.data), limit, seed))
    images, labels = given.data.batch(chosen), given.data.labels[chosen]
    network = given.model.to(place) if isinstance(given.model, torch.nn.Module) else given.model
    facts = {
        "command": shlex.join(["regfast", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "notes": [*given.notes, f"{len(chosen)} of {len(given.data)} images, seed {seed}"],
        "versions": {"regfast": regfast.__version__, "torch": torch.__version__},
    }
    rows: list[dict[str, Any]] = []
    samples: dict[str, Any] = {"sample": chosen.tolist(), "label": labels.tolist()}
    write_json(path, {**facts, "attacks": rows, "samples": samples})  # what can't be written is said before the work
    for note in facts["notes"]:
        console.print(note)
    for each in attacks:
        start = time.perf_counter()
        result = each.run(network, images, labels, sample_ids=chosen, seed=seed, lanes=lanes, progress=True)
        rows += _rows(each, radii, result, time.perf_counter() - start)
        samples["clean_prediction"] = result.clean_prediction.tolist()
        for column in ("prediction", "success", "distance", "gradients", "queries"):
            samples[f"{column} {each!r}"] = getattr(result, column).tolist()
        clean = share(int(result.clean.sum()), len(chosen))
        write_json(path, {**facts, "clean": clean, "attacks": rows, "samples": samples})
    console.print(f"clean accuracy {clean['value']:.2%} [{clean['low']:.2%}, {clean['high']:.2%}]")
    show(results_table(rows))
    seconds = sum({row["options"]: row["seconds"] for row in rows}.values())
    console.print(f"grads and passes per image; {seconds:.1f} s in all; results: {path}")


def _rows(attack: Runnable, radii: list[float], result: AttackResult, seconds: float) -> list[dict[str, Any]]:
    """One row for an attack with a radius, one for each of `radii` for a search for the nearest adversarial image."""
    from regfast.evaluation.summary import share

    rows = []
    levels: list[float | None] = [*radii] if attack.eps is None and radii else [attack.options.get("eps")]
    for eps in levels:
        broken = result.success if eps is None else result.success & (result.distance <= eps * (1 + 1e-5))
        rows.append(
            {
                "attack": attack.name,
                "norm": attack.norm.name,
                "eps": eps,
                "robust_accuracy": share(int((result.clean & ~broken).sum()), len(broken)),
                "attack_success_rate": share(int(broken.sum()), int(result.clean.sum())),
                "gradients": int(result.gradients.sum()),
                "queries": int(result.queries.sum()),
                "seconds": seconds,
                "options": repr(attack),
            }
        )
    return rows
