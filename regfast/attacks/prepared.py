"""A model made ready for attacks once: for one run, or for many."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypeVar

import torch
from torch import Tensor

from regfast.attacks.checks import (
    GraphWarning,
    warn,
    warn_if_bf16_is_emulated,
    warn_if_in_train_mode,
    warn_if_misleading,
)
from regfast.attacks.classifier import Box, Classifier, Edge, Model, home, logits_of
from regfast.attacks.losses import mean_answer
from regfast.attacks.memory import automatic_lanes, in_parts, is_out_of_memory
from regfast.attacks.prepare import frozen, prepare

T = TypeVar("T")


class PreparedModel:
    """What every attack asks, in two forms; `Attack.run` takes it in place of a model.

    Preparing copies, folds and (on request) compiles the model, so do it once for many runs, and again after the
    model's weights have changed: the copy does not follow them. It pickles as the model and its options.

    Args:
        model: any callable from images to logits (B, K), or to a dict or object with `logits`. Modules get images in
            the dtype of their parameters, other callables in that of `example`.
        example: (n, C, H, W) a few images like those to come, in the range of `bounds`.
        precision: "float32" computes as the model does; "bf16": search in bfloat16, every success confirmed by the
            model as given.
        channels_last: let the search model compute channels last.
        compile: pass the search model through `torch.compile`.
        cuda_graphs: on a GPU, record whole steps (model, objective, move) as CUDA graphs, once per width of the lanes.
            True: raise where the model can't be recorded. None: go on without them there, and warn once. False: never.
            A recorded step is compared with the step itself before it is used.
        bounds: (low, high) of the images, numbers or one per channel, where it is not [0, 1]; see `Attack.run`.

    Attributes:
        model: what was given.
        given: it, from images in [0, 1]: clean logits, and confirmation of every point that counts.
        search: the fast, differentiable form that attacks ask.
        confirm: `given`, or None where `search` says the same by itself.
        random: the model answers the same images differently each time.
        device: where it computes.
        box: the range of its images.
        records: steps are recorded as CUDA graphs, on a GPU.
        compiled: `search` is compiled per shape.

    Raises:
        TypeError, ValueError: for a model that gives no logits (B, K), and bad options.
    """

    def __init__(
        self,
        model: Model,
        example: Tensor,
        *,
        precision: str = "float32",
        channels_last: bool = True,
        compile: bool = False,  # noqa: A002
        cuda_graphs: bool | None = False,
        bounds: tuple[Edge, Edge] | None = None,
    ):
        if precision not in ("float32", "bf16"):
            raise ValueError(f"precision must be 'float32' or 'bf16', got {precision!r}")
        self._options = {
            "precision": precision, "channels_last": channels_last, "compile": compile, "cuda_graphs": cuda_graphs,
            "bounds": bounds,
        }  # fmt: skip
        self.model, self.box = model, Box(bounds)
        self.device = home(model, example)[0]
        self.given = self.search = classifier_of(model, example, self.box)
        dtype = self.given.dtype
        if precision == "bf16":
            warn_if_bf16_is_emulated(self.device)
        self.random = False
        self._example = self.box.enter(example[:8].detach().to(self.device)).float()
        if len(example):
            with torch.inference_mode(False), torch.no_grad(), frozen(model):
                self._fitting(self._look)
                network = self._fitting(
                    lambda: prepare(
                        model, self.box.leave(self._example).to(dtype), precision=precision,
                        channels_last=channels_last, compile=compile,
                    )
                )  # fmt: skip
            if network is not model:
                self.search = Classifier(network, dtype, self.box, copies=self.given.copies)
        self.confirm = self.given if self.random or self.search is not self.given else None
        # A model that answers at random may draw on the host, which a replay would not repeat.
        self.records = cuda_graphs or (cuda_graphs is None and not self.random)
        self.compiled, self.cuda_graphs = compile, cuda_graphs
        self._lanes: int | None = None
        self._checked: set[tuple[bool, frozenset[str]]] = set()

    def go_without_graphs(self, reason: Exception) -> None:
        """The model can't be recorded: raise where graphs were asked for, else warn, and don't try again."""
        if self.cuda_graphs:
            raise reason
        self.records = False
        warn(GraphWarning, f"steps are not recorded as CUDA graphs, the attack goes on without: {reason}")

    def _look(self) -> None:
        """Does it change the images it is given? Does it say the same twice?"""
        asked = self.box.leave(self._example).to(self.given.dtype).clone()
        before, version = asked.clone(), asked._version
        try:
            answer = self.model(asked)
        except (AssertionError, RuntimeError) as error:
            # The guards of exported programs: an AssertionError, before PyTorch 2.9 a RuntimeError.
            if isinstance(error, RuntimeError) and not str(error).startswith("Expected input at"):
                raise
            raise ValueError(
                f"model must take any number of images; of {tuple(asked.shape)} it says: {error or 'assertion failed'}"
            ) from error
        first = logits_of(answer).float()
        self.given.copies = asked._version != version or not torch.equal(asked, before)
        size = float(first.nan_to_num().abs().amax())
        self.random = not torch.allclose(first, self.given(self._example).float(), 0.0, 1e-4 * size, equal_nan=True)

    def _fitting(self, work: Callable[[], T]) -> T:
        """What `work` gives, with fewer examples where memory runs out."""
        while True:
            try:
                return work()
            except Exception as error:
                if not is_out_of_memory(error) or len(self._example) == 1:
                    raise
            self._example = self._example[: len(self._example) // 2]

    @property
    def lanes(self) -> int:
        """Lanes that fit into what memory is free, measured once."""
        if self._lanes is None:
            self._lanes = self._fitting(lambda: automatic_lanes(self.search, self._example))
        return self._lanes

    def clean_logits(self, images: Tensor, width: int, samples: int = 1) -> Tensor:
        """(N, K) float32 on the images' device: what the model as given says of `images` (N, C, H, W) in [0, 1].

        Args:
            images: on any device.
            width: images at a time; fewer where memory runs out.
            samples: answers averaged, for models that answer at random.
        """

        def ask(rows: Tensor) -> Tensor:
            asked = images[rows].to(self.device).float()
            return mean_answer([self.given(asked).float() for _ in range(samples)]).to(images.device)

        with torch.no_grad(), frozen(self.model):
            parts = in_parts(ask, torch.arange(len(images), device=images.device), width)
        return torch.cat(parts) if parts else torch.zeros(0, 0, device=images.device)

    def check(
        self, images: Tensor, labels: Tensor, *, gradients: bool, losses: Collection[str], averages: bool = False
    ) -> None:
        """Warn where results would mislead (checks.py), once for each kind of attack.

        Args:
            images: (N, C, H, W) in [0, 1], on any device.
            labels: (N,) int64.
            gradients: the attack uses input gradients.
            losses: names of the attack's losses (losses.py).
            averages: the attack averages over a model's random answers (EOT), so that they mislead nobody.
        """
        kind = (gradients, frozenset(losses))
        if kind in self._checked or len(images) == 0:
            return
        self._checked.add(kind)
        warn_if_in_train_mode(self.model)

        def look() -> None:
            some = slice(len(self._example) or 8)
            warn_if_misleading(
                self.given, images[some].to(self.device).float(), labels[some].to(self.device), gradients=gradients,
                losses=losses, random=self.random, averages=averages,
            )  # fmt: skip

        with torch.inference_mode(False), frozen(self.model):
            self._fitting(look)

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, (self.model, self.box.leave(self._example).to(self.given.dtype).cpu(), self._options)


def _remade(model: Model, example: Tensor, options: dict[str, Any]) -> PreparedModel:
    return PreparedModel(model, example, **options)


def classifier_of(model: Model, images: Tensor, box: Box | None = None) -> Classifier:
    """`model` as it is, from images like `images` in [0, 1] to logits: in its own dtype, whatever holds the logits."""
    return Classifier(model, home(model, images)[1], box or Box())
