"""Attack a whole data set: the same program on one process and under torchrun, resumable at any moment."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor, nn

import regfast
from regfast.attacks.base import Runnable
from regfast.evaluation.group import WorkerGroup, join
from regfast.evaluation.identity import check_identity, data_fingerprint, fingerprint, model_fingerprint
from regfast.evaluation.progress import Progress
from regfast.evaluation.queue import chunk_samples, draw_chunks
from regfast.evaluation.samples import Dataset, image_shape, load_chunk, pick_samples
from regfast.evaluation.store import ResultStore, StoreFull
from regfast.evaluation.summary import eps_text, replace_text, summarise, write_summary
from regfast.evaluation.worker import Settings, attack_chunk, count_classes, group_by_eps

__all__ = ["EvaluationResult", "EvaluationStopped", "evaluate"]


class EvaluationStopped(RuntimeError):
    """The run ended early; what was finished is stored, and the same call goes on from there."""


@dataclass(frozen=True)
class EvaluationResult:
    """A finished evaluation.

    Attributes:
        folder: where it lies: run.json, parts/, summary.json, summary.md, curves.png, images/ if asked for.
        summary: clean and robust accuracies with intervals, as in summary.json.
    """

    folder: Path
    summary: dict[str, Any]

    def rows(self) -> pa.Table:
        """One row a sample, attack and eps (`regfast.evaluation.store.SCHEMA`), sorted."""
        identity = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))["identity"]
        return ResultStore(self.folder, fingerprint(identity)).read()

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
    save_images: bool = False,
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
        precision, compile: as in `Attack.run`.
        save_images: keep adversarial images as safetensors in `out/images`.
        device: of this worker; its GPU under torchrun, else the CPU, by default.
        progress: one line on standard error for the whole job.
        command: what made this run, for the summary.

    Raises:
        ValueError: for attacks without eps or given twice, an unusable limit, chunk size or device.
        OtherRun: if `out` holds a run of another configuration; says what differs.
        DamagedPart: if a stored part is truncated, corrupted or foreign.
        EvaluationStopped: if a part could not be written (full disk); what was finished is kept.
    """
    folder = Path(out)
    groups = group_by_eps(attacks)
    names = _names(groups)
    workers = join(device)
    settings = Settings(workers.device, seed, lanes, precision, compile, save_images)
    if isinstance(model, nn.Module):
        model.to(workers.device)
    picked = pick_samples(len(dataset), limit, seed)
    identity = {
        "regfast": regfast.__version__,
        "model": {"name": model_name or type(model).__name__, "fingerprint": model_fingerprint(model)},
        "dataset": {
            "name": dataset_name or type(dataset).__name__,
            "fingerprint": data_fingerprint(dataset, picked),
            "samples": len(picked),
        },
        "attacks": [repr(attack) for group in groups for attack in group],
        "seed": seed,
        "precision": precision,
        "save_images": save_images,
    }
    store = ResultStore(folder, fingerprint(identity))
    lock: contextlib.AbstractContextManager[None] = _alone(folder) if workers.leads else contextlib.nullcontext()
    with lock:
        left = _agree(workers, lambda: _open(store, identity, picked, command))
        started = time.monotonic()
        what = f"({names[-1]} {groups[-1][-1].norm.name} {eps_text(groups[-1][-1].options['eps'])})" if groups else ""
        with Progress(workers, len(picked), len(picked) - len(left), what, show=progress and bool(left)) as line:
            try:
                _work(model, dataset, picked, left, groups, names, store, settings, workers, chunk_size, line)
            except StoreFull as error:
                safe = len(picked) - len(left) + workers.count("samples")
                raise EvaluationStopped(
                    f"{error}. {safe} of {len(picked)} samples are safe in {folder}; only the chunks in flight are "
                    "lost. Make room and run the same command again to go on."
                ) from error
            _await_all(workers, len(left))
        if left or not (folder / "summary.json").exists():
            seconds = time.monotonic() - started
            summary = _agree(workers, lambda: _close(store, identity, workers, seconds, command))
        else:
            summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        workers.leave()
    return EvaluationResult(folder, summary)


def _work(
    model: Callable[[Tensor], Tensor],
    dataset: Dataset,
    picked: Sequence[int],
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
    shape = image_shape(dataset, picked)
    classes = 0 if shape is None else count_classes(model, shape, settings.device)
    prepared = None

    threads = max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    for samples in draw_chunks(chunks, workers.store):
        chunk = load_chunk(dataset, samples, classes, shape, threads=threads)
        begun = time.monotonic()
        if prepared is None and len(chunk.images):
            prepared = settings.prepare(model, chunk.images)
        done = attack_chunk(prepared, chunk, groups, names, settings)
        seconds = time.monotonic() - begun
        facts = {"seconds": f"{seconds:.3f}", "worker": workers.rank, "device": settings.device.type}
        store.write(done.rows, facts, done.images)
        line.add(samples=len(chunk.samples), usable=done.usable, robust=done.robust, evaluations=done.evaluations)


def _names(groups: Sequence[Sequence[Runnable]]) -> list[str]:
    """A name for each group: the attack's, with a number where two groups would share it under one norm."""
    names: list[str] = []
    seen: dict[tuple[str, str], int] = {}
    for group in groups:
        key = (group[0].name, group[0].norm.name)
        seen[key] = seen.get(key, 0) + 1
        names.append(key[0] if seen[key] == 1 else f"{key[0]}-{seen[key]}")
    return names


def _open(store: ResultStore, identity: dict[str, Any], picked: list[int], command: str | None) -> list[int]:
    """Check what the folder holds and return the samples still to do."""
    run = store.folder / "run.json"
    check_identity(run, identity)
    try:
        store.prepare()
        if not run.exists():
            replace_text(run, json.dumps({"identity": identity, "command": command}, indent=2) + "\n")
    except OSError as error:
        raise EvaluationStopped(f"{store.folder} cannot be written: {error.strerror or error}") from error
    finished = store.finished()
    return [sample for sample in picked if sample not in finished]


def _close(
    store: ResultStore, identity: dict[str, Any], workers: WorkerGroup, seconds: float, command: str | None
) -> dict[str, Any]:
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
        "worker_seconds": round(sum(float(value or 0) for value in store.facts("seconds")), 3),
        "last_call": {"workers": workers.size, "wall_seconds": round(seconds, 3)},
        "hardware": f"{workers.size} x {hardware}, {torch.get_num_threads()} threads each",
        "versions": {"regfast": regfast.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    if command:
        facts["command"] = command
    summary = summarise(store.read(), facts)
    write_summary(store.folder, summary)
    return summary


def _agree(workers: WorkerGroup, decide: Callable[[], Any]) -> Any:
    """The leading worker decides (a JSON value), all others take over what it says; its errors end them all."""
    key = f"agreed-{workers.count(f'turn-{workers.rank}', 1)}"
    if not workers.leads:
        answer = json.loads(workers.store.get(key))
        workers.count(f"{key}-read", 1)
        if "error" in answer:
            raise EvaluationStopped(f"the leading worker stopped: {answer['error']}")
        return answer["value"]
    try:
        value = decide()
    except Exception as error:
        workers.store.set(key, json.dumps({"error": str(error)}))
        patience = time.monotonic() + 10  # the store goes with this process: let the others read first
        while workers.count(f"{key}-read") < workers.size - 1 and time.monotonic() < patience:
            time.sleep(0.05)
        raise
    workers.store.set(key, json.dumps({"value": value}))
    return value


def _await_all(workers: WorkerGroup, samples: int) -> None:
    """Wait until every sample of this call is stored; torchrun ends us all if a worker dies meanwhile."""
    while workers.count("samples") < samples:
        time.sleep(0.2)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder against a second job; the lock goes with the process, however that ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise EvaluationStopped(
                f"another evaluation is writing to {folder}; wait for it or choose another folder"
            ) from error
        yield
