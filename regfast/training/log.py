"""Curves of a training for TensorBoard and Weights & Biases, through their own libraries."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from regfast.runs.errors import MissingExtra
from regfast.training.loop import Epoch

LOGS = ("tensorboard", "wandb")


@contextmanager
def open_log(
    kind: str | None, path: Path, config: Mapping[str, Any], epochs: int = 0
) -> Iterator[Callable[[Epoch], None]]:
    """What is to be called with every epoch while the context lasts; None: nothing is written.

    tensorboard: event files in the folder `path`. wandb: a run called `path`'s name in the project regfast, with
    `config`; its files go beside `path`. A training that goes on after `epochs` epochs goes on there too.

    Raises:
        ValueError: for another `kind`.
        MissingExtra: where the library is not installed.
    """
    if kind is None:
        yield lambda epoch: None
    elif kind == "tensorboard":
        writer = _load("torch.utils.tensorboard", kind).SummaryWriter(str(path), purge_step=epochs + 1)

        def write(epoch: Epoch) -> None:
            for name, value in _figures(epoch).items():
                writer.add_scalar(name, value, epoch.epoch)
            writer.flush()

        try:
            yield write
        finally:
            writer.close()
    elif kind == "wandb":
        library = _load("wandb", kind)
        run = library.init(
            project="regfast", name=path.name, id=path.name, resume="allow", dir=str(path.parent), config=dict(config)
        )
        try:
            yield lambda epoch: run.log(_figures(epoch), step=epoch.epoch)
        finally:
            run.finish()
    else:
        raise ValueError(f"log must be one of {', '.join(LOGS)}, got {kind!r}")


def _figures(epoch: Epoch) -> dict[str, float]:
    return {name: value for name, value in epoch.as_dict().items() if name != "epoch"}


def _load(module: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(f"{name} is needed for this: pip install {name}") from error
