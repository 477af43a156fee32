"""A model in the middle of its training, held for an attack: asked as it is now, and left as it was found.

`prepare` copies a model once for many runs; here the weights change at every step, so nothing is copied. What can be
gained is gained in place, for as long as the attack lasts: parameters are frozen, images run channels last, and in eval
mode batch norms are folded into the layers before them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from regfast.attacks.classifier import Model, home, logits_of
from regfast.attacks.prepare import foldable, folded_weights, frozen

__all__ = ["LiveModel", "Mode", "is_compiled"]

Mode = Literal["eval", "train"]


@dataclass
class _Plan:
    modules: list[nn.Module]  # of the model it is for
    pairs: Sequence[tuple[Any, Any]]  # layers, and the batch norms to fold into them
    dtype: torch.dtype  # of the images that it takes
    channels_last: bool


class LiveModel:
    """Holds whatever model it is given; what can be folded is looked up once, and again when its modules change.

    Args:
        mode: "eval", or "train": batch norms use their batch and dropout drops. A model that is in train mode already
            keeps what the user set for its parts.
        channels_last: let images (B, C, H, W) run channels last, where the model says the same.
    """

    def __init__(self, mode: Mode, channels_last: bool = True):
        if mode not in ("eval", "train"):
            raise ValueError(f"mode must be 'eval' or 'train', got {mode!r}")
        self.mode, self.channels_last = mode, channels_last
        self._plan: _Plan | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_plan": None}  # a plan holds the model

    @contextmanager
    def __call__(self, model: Model, images: Tensor, seed: int) -> Iterator[Model]:
        """Hold `model`; inside, what is yielded answers images like `images` (B, …) with logits.

        Flags, buffers, gradients and PyTorch's generators are afterwards as they were. DistributedDataParallel is asked
        without its wrapper: an attack leaves nothing to synchronise.

        Args:
            seed: of PyTorch's default generators inside, for what the model draws.
        """
        if isinstance(model, DistributedDataParallel):
            model = model.module
        with _drawing(seed, images.device):
            if not isinstance(model, nn.Module):
                yield _asked(model, images.dtype, False)
                return
            plan = self._planned(model, images)
            ask = _asked(model, plan.dtype, plan.channels_last)
            if self.mode == "eval":
                with frozen(model), _folded(plan.pairs):
                    yield ask
            else:
                with frozen(model, training=True), _copied_buffers(plan.modules):
                    yield ask

    def _planned(self, model: nn.Module, images: Tensor) -> _Plan:
        modules = list(model.modules())
        dtype = home(model, images)[1]
        if self._plan is None or self._plan.modules != modules or self._plan.dtype != dtype:
            self._plan = _plan(model, modules, images[:8].to(dtype), self.channels_last)
        return self._plan


def is_compiled(model: Model) -> bool:
    """Whether `torch.compile` had the model, or a part of it: it is compiled anew for another shape."""
    modules = model.modules() if isinstance(model, nn.Module) else ()
    compiled = any(hasattr(module, "_orig_mod") or module._compiled_call_impl for module in modules)
    return compiled or hasattr(model, "_torchdynamo_orig_callable")


def _plan(model: nn.Module, modules: list[nn.Module], example: Tensor, channels_last: bool) -> _Plan:
    """The fastest form that repeats the model's logits on `example` (n, …), in eval mode, to 1e-4 of the largest."""
    if is_compiled(model):  # it would be compiled again for every set of weights
        return _Plan(modules, [], example.dtype, False)
    with frozen(model), torch.no_grad(), torch.autocast(example.device.type, enabled=False):
        expected = logits_of(model(example))
        found = [(layer, norm) for layer, norm, *_ in foldable(model)]
        for pairs in (found, []) if found else ([],):
            for last in (True, False) if channels_last and example.ndim == 4 else (False,):
                try:
                    with _folded(pairs):
                        logits = _asked(model, example.dtype, last)(example)
                except RuntimeError:  # views its features in one layout only
                    continue
                tolerance = 1e-4 * float(expected.abs().amax())
                if torch.allclose(logits, expected, rtol=0.0, atol=tolerance, equal_nan=True):
                    return _Plan(modules, pairs, example.dtype, last)
    return _Plan(modules, [], example.dtype, False)


def _asked(model: Model, dtype: torch.dtype, last: bool) -> Model:
    """From images to logits, whatever holds them; it takes them in `dtype`, channels last where `last`."""
    if last:
        return lambda images: logits_of(model(images.to(dtype, memory_format=torch.channels_last)))
    return lambda images: logits_of(model(images.to(dtype)))


@contextmanager
def _folded(pairs: Sequence[tuple[Any, Any]]) -> Iterator[None]:
    """Scaled weights in the layers' place, and nothing in the norms'."""
    held = [(layer._parameters["weight"], layer._parameters["bias"]) for layer, _ in pairs]
    try:
        for layer, norm in pairs:
            layer._parameters["weight"], layer._parameters["bias"] = folded_weights(layer, norm)
            norm.forward = _same
        yield
    finally:
        for (layer, norm), (weight, bias) in zip(pairs, held, strict=True):
            layer._parameters["weight"], layer._parameters["bias"] = weight, bias
            norm.__dict__.pop("forward", None)


def _same(features: Tensor) -> Tensor:
    return features


@contextmanager
def _copied_buffers(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Running statistics and the like go on in copies: the originals are untouched, by graphs still alive too."""
    places = [(m, name, b) for m in modules for name, b in m._buffers.items() if b is not None]
    copies = {id(buffer): buffer.clone() for _, _, buffer in places}
    try:
        for module, name, buffer in places:
            module._buffers[name] = copies[id(buffer)]
        yield
    finally:
        for module, name, buffer in places:
            module._buffers[name] = buffer


@contextmanager
def _drawing(seed: int, device: torch.device) -> Iterator[None]:
    """PyTorch's default generators (the processor's and the device's) start at `seed`, and are put back."""
    generators = [torch.default_generator]
    if device.type == "cuda":
        generators.append(torch.cuda.default_generators[device.index or 0])
    states = [generator.get_state() for generator in generators]
    try:
        for generator in generators:
            generator.manual_seed(seed)
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
