"""The networks of a measurement: `NAME=MODEL[@CHECKPOINT|WEIGHTS[,…]]`, opened and checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from regfast.evaluation.identity import model_fingerprint
from regfast.models import Preprocess, SplitClassifier, load_model, split_classifier
from regfast.models.split import Normalize
from regfast.registry import parse
from regfast.runs.errors import InputError, user_input
from regfast.study.config import check_name

_FILES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar")
_LIBRARIES = ("torchvision", "timm")


@dataclass(frozen=True)
class Network:
    """A network that is measured: one or several trainings of one kind, the seeds of its intervals.

    Attributes:
        name: what files and page call it.
        members: its trainings, each split into features and head, in evaluation mode.
        sources: where each came from, in words: a checkpoint's path, the name of published weights, or "".
        model: what architecture it is, in words.
        preprocess: how an image file becomes its input, where the weights or the user say.
    """

    name: str
    members: tuple[SplitClassifier, ...]
    sources: tuple[str, ...]
    model: str
    preprocess: Preprocess | None = None

    @property
    def num_classes(self) -> int:
        """K."""
        return self.members[0].num_classes

    @property
    def num_features(self) -> int:
        """d."""
        return self.members[0].head.in_features

    def as_dict(self) -> dict[str, Any]:
        """What `config.json` says of it, the weights as fingerprints."""
        normalize = self.members[0].normalize
        said = None if normalize.identity else [_rounded(normalize.mean), _rounded(normalize.std)]
        return {
            "model": self.model,
            "weights": list(self.sources),
            "features": self.num_features,
            "mean, std": said,
            "fingerprints": [model_fingerprint(member) for member in self.members],
        }

    def describe(self) -> str:
        """One line for the user, before a run starts."""
        mean_std = self.as_dict()["mean, std"]
        inside = (
            "no normalization added" if mean_std is None else "normalized inside: mean {}, std {}".format(*mean_std)
        )
        parts = [
            f"{self.model}, {self.num_features} features, {self.num_classes} classes",
            f"images in [0, 1], {inside}",
            ", ".join(filter(None, self.sources)) or "weights as given",
        ]
        return f"{self.name}: {'; '.join(parts)}"


def _rounded(values: torch.Tensor) -> list[float]:
    return [round(float(value), 4) for value in values.flatten()]


def open_networks(
    specs: Sequence[str], preprocess: Sequence[str] = (), *, in_channels: int | None = None
) -> list[Network]:
    """The networks that a user writes, loaded and checked; see `open_network` and `preprocessing`.

    Raises InputError for names that occur twice, for other numbers of seeds, and for what `open_network` refuses.
    """
    parsed = [_parsed(spec) for spec in specs]
    names = [name for name, _, _ in parsed]
    check_names(names)
    given = preprocessing(preprocess, names)
    networks = [
        open_network(name, model, sources, given.get(name, {}), in_channels=in_channels)
        for name, model, sources in parsed
    ]
    check_networks(networks)
    return networks


def _parsed(spec: str) -> tuple[str, str, list[str]]:
    """Name, model and sources of `NAME=MODEL[@SOURCE[,SOURCE…]]`."""
    name, equals, rest = spec.partition("=")
    if not equals or not name.strip() or not rest.strip() or ":" in name:
        raise InputError(f"a network is written NAME=MODEL[@CHECKPOINT or WEIGHTS[,…]], got {spec!r}")
    model, at, sources = rest.strip().partition("@")
    listed = [source.strip() for source in sources.split(",")] if at else []
    if not model or (at and not all(listed)):
        raise InputError(f"network {name}: expected MODEL@CHECKPOINT[,CHECKPOINT…], got {rest!r}")
    return name.strip(), model, listed


def check_names(names: Sequence[str]) -> None:
    """Raises InputError for no name at all, for one that cannot name a file, and for one that occurs twice."""
    if not names:
        raise InputError("networks: expected at least one, got none")
    for name in names:
        with user_input():
            check_name("network", name)
        if names.count(name) > 1:
            raise InputError(f"two networks are called {name!r}: give each a name of its own")


def open_network(
    name: str, model: str, sources: Sequence[str], given: Mapping[str, Any], *, in_channels: int | None = None
) -> Network:
    """The network `name`: `model` with each of `sources`.

    Args:
        model: as `load_model` takes it.
        sources: checkpoints or, for torchvision and timm, published weights, one a seed. None: only a user's own
            factory, which may bring its weights itself.
        given: of its preprocessing, what is not to come from the weights: resize, crop, interpolation, mean, std.

    Raises InputError that names the network, for whatever cannot be opened.
    """
    own = ":" in model and model.partition(":")[0] not in _LIBRARIES
    if not sources and not own:
        raise InputError(
            f"network {name}: {model} alone has random weights; write {name}={model}@CHECKPOINT"
            f"{'' if model.partition(':')[0] not in _LIBRARIES else ' or @WEIGHTS, such as @DEFAULT'}"
        )
    members = []
    for source in sources or [""]:
        with _named(name), user_input():
            published = bool(source) and not own and ":" in model and not _is_file(source)
            where: dict[str, Any] = {"weights": source} if published else {"checkpoint": source or None}
            members.append(load_model(model, in_channels=in_channels, **where))
    preset = members[0].preprocess
    settings = {key: given[key] for key in ("resize", "crop", "interpolation") if key in given}
    with _named(name), user_input():
        prepare = (
            replace(preset if isinstance(preset, Preprocess) else Preprocess(), **settings) if settings else preset
        )
        if "mean" in given or "std" in given:
            for member in members:
                member.normalize = Normalize(given.get("mean"), given.get("std"))
    return Network(name, tuple(members), tuple(sources or [""]), model, prepare)


def _is_file(source: str) -> bool:
    return "/" in source or source.endswith(_FILES) or Path(source).is_file()


class _named:
    """An InputError in here says which network it is about."""

    def __init__(self, name: str):
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, InputError):
            raise type(error)(f"network {self._name}: {error}") from error


def preprocessing(specs: Sequence[str], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Per network what the user says of its preprocessing: `NAME:resize=232,crop=224` or, for all, without `NAME:`.

    Options: resize and crop in pixels, interpolation, and mean and std, a number a channel with spaces between.
    Raises InputError for other options and for a name that no network has.
    """
    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    for spec in specs:
        head = spec.partition(":")[0]
        with user_input():
            name, options = parse(f"all:{spec}" if "=" in head else spec)
        whose = names if "=" in head else [name]
        if name != "all" and name not in names:
            raise InputError(f"preprocessing of {name!r}: no network is called so; there are {', '.join(names)}")
        for option, value in options.items():
            if option in ("mean", "std"):
                options[option] = [float(each) for each in value.split()] if isinstance(value, str) else [float(value)]
            elif option not in ("resize", "crop", "interpolation"):
                raise InputError(f"preprocessing knows resize, crop, interpolation, mean and std, got {option!r}")
        for each in whose:
            found[each] |= options
    return found


def given_networks(networks: Mapping[str, Any], examples: Mapping[str, torch.Tensor] | None = None) -> list[Network]:
    """`Network`s of modules: name to a module, or to several that are seeds of one kind.

    A `SplitClassifier` is taken as it is, any other module is split at its last linear layer; `examples`: one batch
    of the input (B, C, H, W) of each, to find that layer with. Raises InputError that names the network.
    """
    if not isinstance(networks, Mapping):
        raise TypeError(f"networks must map names to modules, got {type(networks).__name__}")
    names = list(networks)
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"networks must map names (text) to modules, got {names!r}")
    check_names(names)
    found = []
    for name, value in networks.items():
        modules = list(value) if isinstance(value, Sequence) else [value]
        if not modules or not all(isinstance(module, nn.Module) for module in modules):
            raise TypeError(f"network {name}: expected a torch.nn.Module or several, got {value!r}")
        with _named(name), user_input():
            members = [split_classifier(module, example=(examples or {}).get(name)) for module in modules]
        kind = type(modules[0]).__name__
        prepare = members[0].preprocess
        found.append(Network(name, tuple(members), ("",) * len(members), kind, prepare))
    check_networks(found)
    return found


def check_networks(networks: Sequence[Network]) -> None:
    """Raises InputError for a network whose number of seeds, or of classes, is not the first one's."""
    first = networks[0]
    for network in networks:
        if len(network.members) != len(first.members):
            raise InputError(
                f"network {network.name} has {len(network.members)} checkpoints and {first.name} has "
                f"{len(first.members)}: they are compared seed by seed, so give each the same number"
            )
        for member in network.members:
            if (member.num_classes, member.head.in_features) != (network.num_classes, network.num_features):
                raise InputError(f"network {network.name}: its checkpoints differ in classes or features")
        if network.num_classes != first.num_classes:
            raise InputError(
                f"network {network.name} tells {network.num_classes} classes apart and {first.name} "
                f"{first.num_classes}: leave one of them out"
            )
