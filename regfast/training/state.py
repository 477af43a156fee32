"""What a training needs to go on, to the bit, from the end of an epoch: one file, written beside and renamed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from regfast.runs.errors import InputError
from regfast.runs.files import REMEDY, remove_beside, replacing
from regfast.runs.folder import check_same


class SavedState:
    """The state of a training in the file `path`, written after every epoch.

    `facts` are plain values that decide the weights beside what `train` knows itself: the data's fingerprint, the
    model's name. A file of another training is refused, naming what differs.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any] | None = None):
        self.path, self.facts = path, dict(facts or {})

    @property
    def epochs(self) -> int:
        """How many epochs are done. Raises InputError for a damaged file."""
        return len(json.loads(self._load(mmap=True)["history"])) if self.path.is_file() else 0

    def read(self, facts: Mapping[str, Any]) -> dict[str, Any] | None:
        """What `write` was given, None where there is no file.

        Raises OtherRun for a training of other `facts`, InputError for a damaged file.
        """
        if not self.path.is_file():
            return None
        found = self._load()
        check_same(json.loads(found["facts"]), json.loads(self._facts(facts)), self.path)
        return found

    def write(self, facts: Mapping[str, Any], content: Mapping[str, Any]) -> None:
        """Keep `content`. Raises NotWritten."""
        with replacing(self.path) as file:
            torch.save({"facts": self._facts(facts), **content}, file)

    def remove(self) -> None:
        """The training is over: nothing stays, not even what a killed one left."""
        self.path.unlink(missing_ok=True)
        remove_beside(self.path)

    def _facts(self, facts: Mapping[str, Any]) -> str:
        return json.dumps({**self.facts, **facts})  # plain text: nothing in the file runs code

    def _load(self, mmap: bool = False) -> dict[str, Any]:
        """All of it; `mmap`: weights are read from the file only when they are looked at."""
        try:
            found: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True, mmap=mmap)
        except Exception as error:  # a damaged file can make the reader raise anything
            raise InputError(f"{self.path} is damaged: {type(error).__name__}{REMEDY}") from error
        return found


def random_state(generator: torch.Generator) -> dict[str, Any]:
    """Of `generator` and of PyTorch's own generators."""
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"generator": generator.get_state(), "cpu": torch.get_rng_state(), "cuda": devices}


def restore_random(state: Mapping[str, Any], generator: torch.Generator) -> None:
    """Back to what `random_state` saw."""
    generator.set_state(state["generator"])
    torch.set_rng_state(state["cpu"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
