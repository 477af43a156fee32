"""Attack a whole data set: the same program on one process and under torchrun, resumable at any moment."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor, nn

import regfast
from regfast.attacks.base import Runnable
from regfast.attacks.checks import AttackWarning, MaskedGradientWarning, UnsettledWarning
from regfast.attacks.evaluate import gradient_free
from regfast.data import pick_samples
from regfast.evaluation.classes import class_rows, write_classes
from regfast.evaluation.examples import write_examples
from regfast.evaluation.identity import (
    check_identity,
    data_fingerprint,
    fingerprint,
    model_fingerprint,
    read_identity,
)
from regfast.evaluation.leaderboard import write_leaderboard
from regfast.evaluation.progress import Progress
from regfast.evaluation.queue import chunk_samples, draw_chunks
from regfast.evaluation.samples import OK, Dataset, image_shape, load_chunk, read_pixels, spread
from regfast.evaluation.store import ResultStore
from regfast.evaluation.summary import eps_text, summarize, write_summary
from regfast.evaluation.worker import Settings, attack_chunk, count_classes, group_by_eps
from regfast.runs.errors import InputError, OtherRun, RunStopped
from regfast.runs.files import REMEDY, NotWritten, read_json, write_json
from regfast.runs.folder import alone, check_kind
from regfast.runs.group import WorkerGroup, agree, join

__all__ = ["EvaluationResult", "EvaluationStopped", "evaluate"]


FORMAT = 3  # of the result files; a run of another format is not continued
_REREAD = 64  # finished samples whose pixels are compared when a run goes on


class EvaluationStopped(RunStopped):
    """The run ended early; what was finished is stored, and the same call goes on from there."""


@dataclass(frozen=True)
class EvaluationResult:
    """A finished evaluation.

    Attributes:
        folder: where it lies: run.json, parts/, summary.json, summary.md, classes.csv,
            leaderboard-*.json of AutoAttack, examples.safetensors, images/ if asked for; `regfast.report.write_report`
            makes the page.
        summary: clean and robust accuracies with intervals, as in summary.json.
    """

    folder: Path
    summary: dict[str, Any] = field(repr=False)

    def rows(self) -> pa.Table:
        """One row a sample, attack and eps (`regfast.evaluation.store.SCHEMA`), sorted."""
        return ResultStore(self.folder, fingerprint(read_identity(self.folder / "run.json"))).read()

    def robust_accuracy(self, attack: str, eps: float, norm: str | None = None) -> float:
        """Robust accuracy in [0, 1] under `attack` at `eps`.

        Raises:
            KeyError: if the run has no such figure; says which it has.
        """
        for row in self.summary["attacks"]:
            if row["attack"] == attack and abs(row["eps"] - eps) < 1e-12 and norm in (None, row["norm"]):
                return float(row["robust_accuracy"]["value"])
        known = ", ".join(f"{row['attack']} {row['norm']} {row['eps']:.6g}" for row in self.summary["attacks"])
        raise KeyError(f"no {attack} at eps {eps:.6g}; this run has {known}")


def evaluate(
    model: Callable[[Tensor], Tensor],
    dataset: Dataset,
    attacks: Sequence[Runnable],
    *,
    out: str | Path,
    seed: int = 0,
    limit: int | None = None,
    model_name: str | None = None,
    dataset_name: str | None = None,
    lanes: int | None = None,
    chunk_size: int | None = None,
    precision: str = "float32",
    compile: bool = False,  # noqa: A002
    cuda_graphs: bool | None = False,
    save_images: bool = False,
    target: int | str | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
    command: str | None = None,
) -> EvaluationResult:
    """Attack `model` on `dataset` and store one row a sample, attack and eps.

    In a notebook this is one process. Under torchrun every rank calls it with the same arguments and draws chunks of
    samples until none is left; all return the same result. The rows are the same for any number of workers and any
    chunk size (exactly so for a model whose output for an image does not depend on the batch around it). A run that
    was interrupted, killed or ran out of disk goes on when it is called again, and a finished one returns at once.

    Args:
        model: from images (B, C, H, W) in [0, 1] to logits (B, K). A module is moved to `device`.
        dataset: map-style, `dataset[i] -> (image, label)`, images float in [0, 1] or uint8, all of one shape. Samples
            that cannot be read or used get a row that says why and are part of no figure.
        attacks: any of `regfast.attacks`, with an eps each. Attacks that differ in eps alone share their work: what
            fell at a smaller eps is not attacked again at a larger one.
        out: folder of the run; it must be new, or hold the same run.
        seed: decides, with the sample's number, every random draw; and which samples `limit` picks.
        limit: use the first `limit` samples of a seeded shuffle; all by default.
        model_name, dataset_name: for the reports; the class's name by default.
        lanes: samples attacked at the same time on one worker; chosen automatically by default.
        chunk_size: samples a worker draws at once; by default large at first and small at the end.
        precision, compile, cuda_graphs: as in `Attack.run`.
        save_images: keep adversarial images as safetensors in `out/images`.
        target: the class to reach: a number, "random" (by seed and sample), "next" (the label plus one) or
            "least-likely"; success is then nothing less. Samples whose label is the number are left out.
        device: of this worker; its GPU under torchrun, else the CPU, by default.
        progress: one line on standard error for the whole job.
        command: what made this run, for the summary.

    Raises:
        ValueError: for attacks without eps or given twice, an unusable limit, chunk size or device.
        OtherRun: if `out` holds a run of another kind, configuration or data; says what differs.
        DamagedPart: if a stored part is truncated, corrupted or foreign.
        EvaluationStopped: if a file could not be written (full disk), another job holds the folder, finished rows
            vanished from it, or another worker was lost; what was finished is kept.

    >>> images = torch.utils.data.TensorDataset(torch.rand(8, 3, 32, 32), torch.arange(8))
    >>> found = evaluate(model, images, [PGD("linf", 8 / 255, steps=2)], out=tmp_path / "run", progress=False)
    """
    folder = Path(out)
    groups = group_by_eps(attacks)
    if not groups:
        raise InputError("attacks: expected at least one, got none")
    names = _names(groups)
    workers = join(device)
    settings = Settings(workers.device, seed, lanes, precision, compile, cuda_graphs, save_images, target)
    if isinstance(model, nn.Module):
        model.to(workers.device)
    picked = pick_samples(len(dataset), limit, seed)
    identity = {
        "format": FORMAT,
        "regfast": regfast.__version__,
        "model": {"name": model_name or type(model).__name__, "fingerprint": model_fingerprint(model)},
        "dataset": {
            "name": dataset_name or type(dataset).__name__,
            "fingerprint": data_fingerprint(dataset, picked),
            "samples": len(picked),
            **({"preprocess": dataset.preprocess} if hasattr(dataset, "preprocess") else {}),
        },
        "attacks": [repr(attack) for group in groups for attack in group],
        "seed": seed,
        "precision": precision,
        "save_images": save_images,
        **({} if target is None else {"target": target}),
    }
    store = ResultStore(folder, fingerprint(identity))
    figures = sum(map(len, groups))
    with contextlib.ExitStack() as held:
        held.enter_context(workers.watched())
        summary = agree(workers, lambda: _finished(store, identity, picked, figures))
        if summary is None:
            shape = image_shape(dataset, picked)
            classes = 0 if shape is None else count_classes(model, shape, workers.device)
            if isinstance(target, int) and target >= classes > 0:
                raise InputError(f"target must be below {classes}, the model's classes, got {target}")
            chunk_samples([], workers.size, chunk_size=chunk_size)  # its own checks, before anything is written
            facts = {"command": command, "limit": limit}
            left = agree(workers, lambda: _open(store, identity, dataset, picked, facts, held))
            started = time.monotonic()
            what = f"({names[-1]} {groups[-1][-1].norm.name} {eps_text(groups[-1][-1].options['eps'])})"
            show, already = progress and bool(left), len(picked) - len(left)
            usable, robust = _standing(store, names[-1], groups[-1][-1]) if show and already else (0, 0)
            with Progress(workers, len(picked), already, what, usable=usable, robust=robust, show=show) as line:
                try:
                    _work(
                        model, dataset, shape, classes, left, groups, names, store, settings, workers, chunk_size, line
                    )
                except NotWritten as error:
                    safe = already + workers.count("samples")
                    raise EvaluationStopped(
                        f"{error}. {safe} of {len(picked)} samples are safe in {folder}; only the chunks in flight are "
                        "lost. Make room and run the same command again to go on."
                    ) from error
                workers.wait(lambda: workers.count("samples") >= len(left))
            seconds = time.monotonic() - started

            def explain(rows: pa.Table) -> None:
                write_classes(folder, class_rows(rows, getattr(dataset, "classes", ())))
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", AttackWarning)  # said while the run went on
                    write_examples(folder, model, dataset, groups, names, rows, settings)

            facts = {"command": command, "classes": classes}
            summary = agree(
                workers, lambda: _close(store, identity, len(picked), groups, workers, seconds, facts, explain)
            )
        workers.leave()
    return EvaluationResult(folder, summary)


def _work(
    model: Callable[[Tensor], Tensor],
    dataset: Dataset,
    shape: tuple[int, ...] | None,
    classes: int,
    left: list[int],
    groups: list[list[Runnable]],
    names: list[str],
    store: ResultStore,
    settings: Settings,
    workers: WorkerGroup,
    chunk_size: int | None,
    line: Progress,
) -> None:
    """Draw chunks until none is left."""
    chunks = chunk_samples(left, workers.size, chunk_size=chunk_size)
    if not chunks:
        return
    prepared, shown = None, dict[Any, Any]()
    threads = max(1, (os.cpu_count() or 1) // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    for samples in draw_chunks(chunks, workers.store):
        chunk = load_chunk(dataset, samples, classes, shape, threads=threads)
        begun = time.monotonic()
        with _noted(shown) as told:
            if prepared is None and len(chunk.images):
                prepared = settings.prepare(model, chunk.images)
            done = attack_chunk(prepared, chunk, groups, names, settings, line.within)
        seconds = time.monotonic() - begun
        facts = {
            "seconds": f"{seconds:.3f}", "worker": workers.rank, "device": settings.device.type,
            "warnings": json.dumps(told),
        }  # fmt: skip
        store.write(done.rows, facts, done.images)
        line.add(samples=len(chunk.samples), usable=done.usable, robust=done.robust, evaluations=done.evaluations)


@contextlib.contextmanager
def _noted(shown: dict[Any, Any]) -> Iterator[list[str]]:
    """The attacks' warnings inside, which are passed on as all others are; `shown` is what Python keeps of those.

    What counts samples is left to the summary: a chunk knows its own alone.
    """
    told: list[str] = []
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", AttackWarning)
            yield told
    finally:
        said = [each for each in caught if not issubclass(each.category, MaskedGradientWarning | UnsettledWarning)]
        told += dict.fromkeys(str(each.message) for each in said if issubclass(each.category, AttackWarning))
        for each in said:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno, registry=shown)


def _standing(store: ResultStore, name: str, attack: Runnable) -> tuple[int, int]:
    """Usable samples in the store, and those that `attack`, called `name` there, left standing."""
    rows = store.read()
    figures = zip(*(rows[key].to_pylist() for key in ("attack", "norm", "eps", "status", "robust")), strict=True)
    wanted = (name, attack.norm.name, attack.eps, OK)
    found = [robust for *figure, robust in figures if tuple(figure) == wanted]
    return len(found), sum(found)


def _names(groups: Sequence[Sequence[Runnable]]) -> list[str]:
    """A name for each group: the attack's, with a number where two groups would share it under one norm."""
    names: list[str] = []
    seen: dict[tuple[str, str], int] = {}
    for group in groups:
        key = (group[0].name, group[0].norm.name)
        seen[key] = seen.get(key, 0) + 1
        names.append(key[0] if seen[key] == 1 else f"{key[0]}-{seen[key]}")
    return names


def _finished(store: ResultStore, identity: dict[str, Any], picked: list[int], figures: int) -> dict[str, Any] | None:
    """The summary of the run in the folder, if it is the same run and whole; nothing is written."""
    check_kind(store.folder, "evaluation")
    check_identity(store.folder / "run.json", identity)
    path = store.folder / "summary.json"
    if not path.exists() or len(store.finished()) < len(picked):
        return None
    return read_json(path, REMEDY)


def _open(
    store: ResultStore,
    identity: dict[str, Any],
    dataset: Dataset,
    picked: list[int],
    facts: dict[str, Any],
    held: contextlib.ExitStack,
) -> list[int]:
    """Hold the folder against other jobs, check what is in it, and return the samples still to do."""
    held.enter_context(alone(store.folder / ".lock"))
    run = store.folder / "run.json"
    check_identity(run, identity)  # once more: another job may have been here
    finished = store.finished()
    again = spread(list(finished), _REREAD)
    for sample, pixels in read_pixels(dataset, again).items():
        if finished[sample] not in ("", pixels):
            raise OtherRun(
                f"{store.folder} holds a run on other data: sample {sample} is not the image, or has not the label, "
                "that was attacked there. Give this run another folder (--out)."
            )
    store.prepare()
    if not run.exists():
        write_json(run, {"identity": identity, "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **facts})
    return [sample for sample in picked if sample not in finished]


def _close(
    store: ResultStore,
    identity: dict[str, Any],
    samples: int,
    groups: Sequence[Sequence[Runnable]],
    workers: WorkerGroup,
    seconds: float,
    known: dict[str, Any],
    explain: Callable[[pa.Table], None],
) -> dict[str, Any]:
    """Check that every row (and image) is still there and write what they say, summary.json last."""
    there = len(store.finished())
    if there < samples or store.read().num_rows != samples * sum(map(len, groups)):
        raise EvaluationStopped(
            f"{samples - there} of {samples} samples have vanished from {store.folder} while the run was going on. "
            "The same command computes them again."
        )
    device = workers.device
    hardware = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else (platform.processor() or platform.machine())
    )
    facts = {
        "model": identity["model"]["name"],
        "dataset": identity["dataset"]["name"],
        "seed": identity["seed"],
        "precision": identity["precision"],
        "attack_options": identity["attacks"],
        **({"target": identity["target"]} if "target" in identity else {}),
        "worker_seconds": round(sum(float(value or 0) for value in store.facts("seconds")), 3),
        "last_call": {"workers": workers.size, "wall_seconds": round(seconds, 3)},
        "hardware": f"{workers.size} x {hardware}, {torch.get_num_threads()} threads each",
        "versions": {"regfast": regfast.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    rows = store.read()
    told = dict.fromkeys(text for part in store.facts("warnings") for text in json.loads(part or "[]"))
    free = {name for group in groups for name in gradient_free(group[0].stages())}
    facts |= {name: value for name, value in known.items() if value}
    summary = summarize(rows, facts, told=list(told), gradient_free=free)
    explain(rows)
    write_leaderboard(store.folder, summary)
    write_summary(store.folder, summary)
    return summary
