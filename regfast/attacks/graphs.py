"""A step of the engine as one CUDA graph: its hundreds of kernels start with one call.

A graph reads and writes fixed memory. The step itself is written as new tensors bound to fields of dataclasses (Rows);
here every field keeps one tensor for good, and what a step binds anew is copied into it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from regfast.attacks.lanes import Rows
from regfast.attacks.memory import is_out_of_memory

Recorder = Callable[[Callable[[], None]], Callable[[], None]]
WARM_UP = 3  # steps run before recording, on a stream of their own, as torch.cuda.graph asks


# A replay repeats the step if so few entries of every field (a sign of a gradient next to 0 …) differ by more than this
# share of the field's largest entry: cuBLAS and cuDNN may choose other kernels while a graph is recorded.
FEW, CLOSE = 0.01, 1e-4
LOOKED_AT = 2  # steps: what a model does every second time shows


class NotRecordedError(RuntimeError):
    """A step that can't be recorded, or whose replay says something else; the message says why."""


class Pinned:
    """Fields of `rows` that keep their tensors: `restore` copies what was bound since into them."""

    def __init__(self, rows: Sequence[Rows]):
        # A tensor that two fields share would be overwritten through one of them.
        self._fields: list[tuple[Rows, str, Tensor]] = []
        taken: set[int] = set()
        for row in rows:
            for name, bound in row.tensors():
                shared = _memory(bound) in taken or not bound.is_contiguous()
                tensor = bound.clone(memory_format=torch.contiguous_format) if shared else bound
                setattr(row, name, tensor)
                taken.add(_memory(tensor))
                self._fields.append((row, name, tensor))

    def restore(self) -> None:
        """Every field holds its own tensor again, with the values last bound to it."""
        bound = [(getattr(row, name), tensor) for row, name, tensor in self._fields]
        # First take aside what lies in another field's memory: copying may overwrite it.
        own = {_memory(tensor) for _, tensor in bound}
        values = [new.clone() if new is not tensor and _memory(new) in own else new for new, tensor in bound]
        for (row, name, tensor), new in zip(self._fields, values, strict=True):
            if new is not tensor:
                tensor.copy_(new)
                setattr(row, name, tensor)

    def values(self) -> list[Tensor]:
        """Copies of all fields."""
        return [getattr(row, name).clone() for row, name, _ in self._fields]

    def set(self, values: list[Tensor]) -> None:
        """Fields as they were when `values` was taken."""
        for (row, name, tensor), value in zip(self._fields, values, strict=True):
            tensor.copy_(value)
            setattr(row, name, tensor)


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class GraphedStep:
    """`step` recorded once for the lanes and state of one width, then replayed.

    Args:
        step: works on `rows` alone, on the device alone.
        rows: all that it reads and writes.
        record: turns a step into what replays it: `cuda_graph`.

    Raises:
        NotRecordedError: where `record` fails (but for want of memory), or its replays don't do what the step does.
    """

    def __init__(self, step: Callable[[], object], rows: Sequence[Rows], record: Recorder):
        self._pinned = Pinned(rows)
        before = self._pinned.values()

        def once() -> None:
            step()
            self._pinned.restore()

        try:
            self._replay = record(once)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise NotRecordedError(str(error).splitlines()[0]) from error
        wanted, found = (self._after(run, before) for run in (once, self._replay))
        self._pinned.set(before)  # warming up, recording and looking moved the lanes
        if not all(map(_repeats, wanted, found)):
            raise NotRecordedError("a replay gives other answers than the model: does it do the same work every time?")

    def _after(self, run: Callable[[], None], before: list[Tensor]) -> list[Tensor]:
        """All fields after some steps from `before`."""
        self._pinned.set(before)
        for _ in range(LOOKED_AT):
            run()
        return self._pinned.values()

    def __call__(self) -> None:
        """One step."""
        self._pinned.restore()  # what the host's turn bound anew
        self._replay()


def _repeats(wanted: Tensor, found: Tensor) -> bool:
    """Whether a field came out the same, up to FEW and CLOSE."""
    if not wanted.numel():
        return True
    if not wanted.is_floating_point():
        wanted, found = wanted.double(), found.double()
    size = float(wanted.nan_to_num(0.0, 0.0, 0.0).abs().amax())
    differs = ~torch.isclose(found, wanted, rtol=0.0, atol=CLOSE * size, equal_nan=True)
    return float(differs.double().mean()) <= FEW


def cuda_graph(step: Callable[[], None]) -> Callable[[], None]:
    """`step` recorded as a CUDA graph; raises RuntimeError where the model can't be recorded."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay
