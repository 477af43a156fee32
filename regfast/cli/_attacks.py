"""Attacks and models as a user writes them on the command line."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from regfast.attacks.base import Runnable


def build_attack(spec: str, **options: Any) -> Runnable:
    """The attack that `spec` names: `pgd`, `pgd:steps=40,restarts=5`, `autoattack:version=fast`.

    `options` that are None are left out; one that the attack does not take is an error.
    """
    from regfast import attacks
    from regfast.attacks.base import Runnable

    method, _, text = spec.partition(":")
    known = {
        name.lower(): kind
        for name, kind in vars(attacks).items()
        if inspect.isclass(kind) and issubclass(kind, Runnable) and not inspect.isabstract(kind)
    }
    if method not in known:
        raise ValueError(f"no attack is called {method!r}; there are {', '.join(sorted(known))}")
    given = {name: value for name, value in options.items() if value is not None}
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"options of an attack are written NAME=VALUE, got {part!r} in {spec!r}")
        given[name.strip()] = _value(value.strip())
    taken = inspect.signature(known[method]).parameters
    unknown = [name for name in given if name not in taken]
    if unknown:
        raise ValueError(f"{method} takes no {unknown[0]}; it takes {', '.join(taken)}")
    built: Runnable = known[method](**given)
    return built


def _value(text: str) -> Any:
    """A number, True, False or None where it reads as one, else the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def is_factory(model: str) -> bool:
    """Whether `model` reads as module.path:factory, the user's own."""
    family = model.partition(":")[0]
    return ":" in model and family not in ("torchvision", "timm")


def build_factory(model: str) -> Callable[[Tensor], Tensor]:
    """What the user's `module.path:factory` returns: a callable from images in [0, 1] to logits.

    The current folder can be imported from, as with `python -m`.
    """
    module, _, name = model.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--model {model}: {error}") from error
    built: Callable[[Tensor], Tensor] = factory()
    if not callable(built):
        raise ValueError(f"--model {model} gave {type(built).__name__}, not a callable from images to logits")
    return built
