"""A model made ready for attacks once: for one run, or for many."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from regfast.attacks.checks import warn_if_bf16_is_emulated, warn_if_misleading
from regfast.attacks.memory import automatic_lanes
from regfast.attacks.prepare import Model, frozen, prepare


class PreparedModel:
    """What every attack asks, in two forms; `Attack.run` takes it in place of a model.

    Preparing copies, folds and (on request) compiles the model, so do it once for many runs, and again after the
    model's weights have changed: the copy does not follow them.

    Args:
        model: any callable from images in [0, 1] to logits (B, K).
        example: (n, C, H, W) a few images like those to come.
        precision: "float32", or "bf16": search in bfloat16, every success confirmed in float32.
        channels_last: let the search model compute channels last.
        compile: pass the search model through `torch.compile`.
        cuda_graphs: on a GPU, record whole steps (model, objective, move) as CUDA graphs, once per width of the lanes;
            for models that can be recorded.

    Attributes:
        given: the model as given: clean logits, and confirmation of every point that counts.
        search: the fast, differentiable form that attacks ask.
        confirm: `given`, or None where `search` is the same model.
        device: where it computes.
        fixed_widths: something is compiled per shape, so lanes keep to few widths.
    """

    def __init__(
        self,
        model: Model,
        example: Tensor,
        *,
        precision: str = "float32",
        channels_last: bool = True,
        compile: bool = False,  # noqa: A002
        cuda_graphs: bool = False,
    ):
        if precision not in ("float32", "bf16"):
            raise ValueError(f"precision must be 'float32' or 'bf16', got {precision!r}")
        self.given = model
        self.device = _device(model, example)
        self.search = model
        if precision == "bf16":
            warn_if_bf16_is_emulated(self.device)
        self._example = example[:8].detach().to(self.device)
        if len(example):
            with torch.inference_mode(False), torch.no_grad(), frozen(model):
                self.search = prepare(
                    model, self._example.clone(), precision=precision, channels_last=channels_last, compile=compile
                )
        self.confirm = None if self.search is model else model
        self.cuda_graphs = cuda_graphs
        self.fixed_widths = compile or cuda_graphs
        self._lanes: int | None = None
        self._checked: set[tuple[bool, frozenset[str]]] = set()

    @property
    def lanes(self) -> int:
        """Lanes that fit into what memory is free, measured once."""
        if self._lanes is None:
            self._lanes = automatic_lanes(self.search, self._example)
        return self._lanes

    def check(
        self, images: Tensor, labels: Tensor, *, gradients: bool, losses: Collection[str], averages: bool = False
    ) -> None:
        """Warn where results would mislead (checks.py), once for each kind of attack."""
        kind = (gradients, frozenset(losses))
        if kind not in self._checked:
            self._checked.add(kind)
            warn_if_misleading(self.given, images, labels, gradients=gradients, losses=losses, averages=averages)


def _device(model: Model, images: Tensor) -> torch.device:
    """Where the model computes: with its parameters, else with the images."""
    if isinstance(model, nn.Module):
        for tensor in (*model.parameters(), *model.buffers()):
            return tensor.device
    return images.device
