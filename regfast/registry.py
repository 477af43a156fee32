"""What has a name: registered classes, a user's own by `module:Name`, and their options, `name:option=value`."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from typing_extensions import Self

__all__ = ["Configured", "Registry", "load", "nearest", "parse"]

T = TypeVar("T")
Kind = TypeVar("Kind", bound="type[Any]")


class Configured:
    """An object that remembers what it was constructed with: plain values, defaults filled in."""

    _options: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Keep the arguments before the constructor sees them."""
        made = super().__new__(cls)
        call = inspect.signature(cls.__init__).bind(made, *args, **kwargs)
        call.apply_defaults()
        made._options = dict(list(call.arguments.items())[1:])
        return made

    def __init__(self) -> None:
        pass

    @property
    def options(self) -> dict[str, Any]:
        """The constructor's arguments: `type(thing)(**thing.options)` is another one like it."""
        return dict(self._options)

    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, Any]]:
        """For pickle and copy, which call `__new__` too."""
        return (), self._options

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._options.items())})"


class Registry(Generic[T]):
    """The classes of one kind that exist, by name. What runs by default is another list, and not kept here.

    Args:
        kind: what one of them is called in messages: "attack", "regularizer".
        base: the class that all of them derive from.
    """

    def __init__(self, kind: str, base: type[Any]):  # T, or an abstract class
        self.kind, self.base = kind, base
        self._classes: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[Kind], Kind]:
        """Class decorator: `name` is what users write. Raises ValueError for a name that another class has."""
        if not name or any(character in name for character in ":,= "):
            raise ValueError(f"the name of a {self.kind} must have none of ':', ',', '=' and spaces, got {name!r}")

        def add(cls: Kind) -> Kind:
            held = self._classes.get(name)
            if held is not None and held.__qualname__ != cls.__qualname__:
                raise ValueError(f"there is a {self.kind} called {name!r} already: {held.__module__}.{held.__name__}")
            self._classes[name] = cls
            return cls

        return add

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._classes)

    def name_of(self, cls: type[T]) -> str:
        """The name that `build` finds `cls` under: its own, or `module:Name`."""
        for name, registered in self._classes.items():
            if registered is cls:
                return name
        return f"{cls.__module__}:{cls.__qualname__}"

    def find(self, name: str) -> type[T]:
        """The class called `name`, or the user's own `module:Name`. Raises ValueError where there is none."""
        for known in (name, name.lower()):  # PGD is pgd
            if known in self._classes:
                return self._classes[known]
        if ":" not in name:
            there = f"there are {', '.join(self.names())}, or your own as module:Name"
            raise ValueError(f"no {self.kind} is called {name!r}{nearest(name, self.names())}; {there}")
        known, _, rest = name.partition(":")
        if known.lower() in self._classes:
            raise ValueError(f"options of {self.kind} {known} are written NAME=VALUE, got {rest!r}")
        found = load(name, self.kind)
        if not inspect.isclass(found) or not issubclass(found, self.base) or inspect.isabstract(found):
            raise ValueError(f"{self.kind} {name!r} must be a class derived from {self.base.__name__}, got {found!r}")
        return cast("type[T]", found)

    def build(self, spec: str, **options: Any) -> T:
        """What `spec` says: `name`, `name:option=value,option=value`, or either with `module:Name` for the name.

        `options` are added to those of `spec`, which win. Raises ValueError for unknown names and options.
        """
        name, own = parse(spec)
        cls = self.find(name)
        given = {**options, **own}
        constructor: Any = cls.__init__
        taken = [] if constructor is object.__init__ else list(inspect.signature(constructor).parameters.values())[1:]
        known = [parameter.name for parameter in taken if parameter.kind is not parameter.VAR_KEYWORD]
        unknown = [option for option in given if option not in known]
        if unknown and len(known) == len(taken):
            raise ValueError(f"{self.kind} {name} takes no {unknown[0]}; it takes {', '.join(known) or 'no options'}")
        return cls(**given)


def nearest(name: str, names: Sequence[str]) -> str:
    """A hint for messages, " (did you mean …?)", if some of `names` are much like `name`; else nothing."""
    close = get_close_matches(name, names, n=3)
    return f" (did you mean {', '.join(close)}?)" if close else ""


def parse(spec: str) -> tuple[str, dict[str, Any]]:
    """Name and options of `name:option=value,option=value`; a name may be `module:Name`.

    Values are numbers (8/255 too), true, false, none, or else text. Raises ValueError for an option without "=",
    TypeError for a name that is no text.

    >>> parse("pgd:eps=8/255,steps=7")
    ('pgd', {'eps': 0.03137254901960784, 'steps': 7})
    """
    if not isinstance(spec, str):
        raise TypeError(f"a name must be text, as in name:option=value, got {spec!r}")
    name, _, text = spec.partition(":")
    second, _, rest = text.partition(":")
    if second and "=" not in second:
        name, text = f"{name}:{second}", rest
    options = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        option, equals, value = part.partition("=")
        if not equals or not option.strip():
            raise ValueError(f"options are written NAME=VALUE, got {part!r} in {spec!r}")
        if option.strip() in options:
            raise ValueError(f"{spec!r} gives {option.strip()} twice")
        options[option.strip()] = _value(value.strip())
    return name.strip(), options


def load(path: str, kind: str) -> Any:
    """What `module:Name` names; the current folder can be imported from, as with `python -m`.

    Raises ValueError where there is no such module or name in it; `kind` says what was looked for.
    """
    module, _, name = path.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{kind} {path!r}: {error}") from error
    return found


def _value(text: str) -> Any:
    numerator, slash, denominator = text.partition("/")
    if slash:
        try:
            return float(numerator) / float(denominator)
        except (ValueError, ZeroDivisionError):
            return text
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
