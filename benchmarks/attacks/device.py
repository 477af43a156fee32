"""A GPU that is none, for counting what attacks ask of one: launches, and the times the host waits for it.

Tensors on it (`OnDevice`) hold their values in a CPU tensor and say that they are on `cuda:0`, so that the code in
front of them takes its GPU's branches. `Device`, while it is entered, sees every operation on them:

- a launch: an operation of ATen but views and fresh memory, or an op of regfast (csrc/cuda: one launch each);
- a wait: a value read (`item`, `tolist`, `bool`), a size that depends on values (`nonzero`, a mask as an index), a copy
  between host and device that is not from or to pinned memory, an index in host memory, or an event that was recorded
  less than a whole step ago.

What it can't see: launches inside of one operation of ATen (a reduction may take two), and cuDNN's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, ClassVar
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

CUDA = torch.device("cuda", 0)
READS = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "unique_dim", "_unique2")
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")
FREE = ("detach", "empty", "lift_fresh", "is_pinned", "pin_memory", "_unsafe_view", "alias", "set_")


class OnDevice(torch.Tensor):
    """A tensor on the device that is none. Its memory, `value`, is a tensor of the CPU."""

    value: Tensor

    @staticmethod
    def __new__(cls, value: Tensor) -> OnDevice:
        self = torch.Tensor._make_wrapper_subclass(
            cls, value.shape, value.stride(), value.storage_offset(), dtype=value.dtype
        )
        self.value = value
        return self

    __torch_function__ = torch._C._disabled_torch_function_impl
    is_cuda, is_cpu = True, False

    @property
    def device(self) -> torch.device:
        return CUDA

    def to(self, *args: Any, **options: Any) -> Tensor:
        if args and isinstance(args[0], Tensor):
            args = (args[0].device, args[0].dtype)
        device, dtype, non_blocking, form = torch._C._nn._parse_to(*args, **options)
        if device is not None and device.type == "cpu":
            Device.current().wait("copy to the host")
            return self.value.to(dtype, copy=True, memory_format=form or torch.preserve_format)
        given = {"memory_format": form} if form is not None else {}
        return _to(self, dtype or self.dtype, non_blocking, **given)

    def cpu(self) -> Tensor:
        return self.to("cpu")

    def tolist(self) -> Any:
        return self.to("cpu").tolist()

    def pin_memory(self, device: Any = None) -> Tensor:
        raise RuntimeError("cannot pin 'torch.cuda.FloatTensor': only dense CPU tensors can be pinned")

    def __repr__(self) -> str:
        return f"OnDevice({self.value})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return Device.current().run(func, args, kwargs or {})


class Device(TorchDispatchMode):
    """The device, while it is entered; `step` begins a new count, `model` leaves the model's own operations out.

    Args:
        everywhere: count operations on CPU tensors too, as if all were on the device: for peers that know one device.
    """

    _entered: ClassVar[list[Device]] = []

    def __init__(self, everywhere: bool = False):
        super().__init__()
        self.everywhere = everywhere
        self.launches: list[Counter[str]] = [Counter()]  # a step: operation → how often
        self.operations: list[int] = [0]  # a step: views and fresh memory too
        self.waits: list[Counter[str]] = [Counter()]
        self._inside = 0  # the model

    @staticmethod
    def current() -> Device:
        return Device._entered[-1]

    def __enter__(self) -> Device:
        self._stack = ExitStack()
        Device._entered.append(self)
        for place, stand_in in _cuda().items():
            self._stack.enter_context(mock.patch(place, stand_in))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._stack.close()
        Device._entered.pop()

    def step(self) -> None:
        self.launches.append(Counter())
        self.operations.append(0)
        self.waits.append(Counter())

    @contextmanager
    def model(self) -> Iterator[None]:
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    def launch(self, name: str) -> None:
        if not self._inside:
            self.launches[-1][name] += 1
            self.operations[-1] += 1

    def wait(self, reason: str) -> None:
        if not self._inside:
            self.waits[-1][reason] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """An operation on tensors of the device, of the host, or on fresh memory."""
        wrappers: dict[int, OnDevice] = {}
        hosts: list[Tensor] = []

        def inner(value: Any) -> Any:
            if isinstance(value, OnDevice):
                wrappers[id(value.value)] = value
                return value.value
            if isinstance(value, Tensor):
                hosts.append(value)
            return value

        def outer(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            return wrappers[id(value)] if id(value) in wrappers else OnDevice(value)

        name = func.__name__.split(".")[0]
        args, kwargs = _each(inner, args), {name: inner(value) for name, value in kwargs.items()}
        pinned = kwargs.pop("pin_memory", False)
        target = kwargs.get("device")
        made_here = target is not None and torch.device(target).type == "cuda"
        if made_here:
            kwargs["device"] = torch.device("cpu")
        moved = name in ("_to_copy", "copy_") and (made_here or bool(wrappers and hosts))
        on_device = made_here or bool(wrappers)
        if moved:
            asynchronous = kwargs.get("non_blocking", name == "copy_" and len(args) > 2 and args[2])
            if not (asynchronous and all(hasattr(host, "pinned") for host in hosts)):
                self.wait("copy between host and device")
        elif wrappers and any(host.ndim for host in hosts):
            if not name.startswith("index"):
                raise RuntimeError(f"expected all tensors to be on the same device, in {func}")
            self.wait("an index in host memory")
        if on_device or self.everywhere:
            self._count(func, name, args)
        result = func(*args, **kwargs)
        if name == "copy_" and moved and id(args[0]) not in wrappers:
            return result
        if name in ("_pin_memory", "pin_memory") or pinned:
            result.pinned = True
        return _each(outer, result) if on_device else result

    def _count(self, func: Any, name: str, args: Any) -> None:
        if self._inside:
            return
        indices = args[1] if name in INDEXING else ()
        by_mask = any(isinstance(each, Tensor) and each.dtype == torch.bool for each in indices)
        if name in READS or by_mask:
            self.wait(f"{name}: needs values")
        self.operations[-1] += 1
        if not func.is_view and not name.startswith(FREE):
            self.launches[-1][name] += 1
            if name == "where":  # a number among its arguments becomes a tensor on the device first
                numbers = [each for each in args if isinstance(each, Tensor) and each.ndim == 0]
                self.launches[-1]["fill"] += len(numbers)


def _each(change: Callable[[Any], Any], values: Any) -> Any:
    """`change` of a value, or of those in a list or tuple: tree_map's job, in a tenth of its time."""
    return type(values)([_each(change, value) for value in values]) if type(values) in (list, tuple) else change(values)


class Event:
    """An event; to wait for one that is not a step old is to wait for the device."""

    def __init__(self, *_: Any, **__: Any):
        self.at: int | None = None

    def record(self, *_: Any) -> None:
        self.at = len(Device.current().waits)

    def synchronize(self) -> None:
        device = Device.current()
        if self.at is not None and len(device.waits) - self.at < 1:
            device.wait("an event of this step")


def _cuda() -> dict[str, Any]:
    """What stands in for torch.cuda and for the choice of backends."""
    from regfast.ops import dispatch

    find = dispatch.find

    def chosen(family: str, function: str, tensor: Tensor, constants: tuple[object, ...] = ()) -> Callable[..., Any]:
        if not isinstance(tensor, OnDevice):
            return find(family, function, tensor, constants)
        run = find(family, function, tensor.value, constants)

        def launched(*args: Any, **options: Any) -> Any:
            device = Device.current()
            device.launch(function)
            bare = tree_map(lambda each: each.value if isinstance(each, OnDevice) else each, (args, options))
            with device.model():  # what the CPU's kernel does is not the device's
                result = run(*bare[0], **bare[1])
            return tree_map(lambda each: OnDevice(each) if isinstance(each, Tensor) else each, result)

        return launched

    families = ("objective", "perturbation", "philox", "lanes", "boundary", "squares")
    places = {f"regfast.ops.{family}.find": chosen for family in families}
    return {
        **places,
        "torch.cuda._lazy_init": lambda: None,
        "torch.cuda.device": lambda device: nullcontext(),
        "torch.cuda.Event": Event,
        "torch.cuda.empty_cache": lambda: None,
        "torch.Tensor.pin_memory": _pinned,
        "torch.Tensor.to": _moved,
        "torch.tensor": _tensor,
    }


_to, _new_tensor = torch.Tensor.to, torch.tensor


def _moved(tensor: Tensor, *args: Any, **options: Any) -> Tensor:
    if args and isinstance(args[0], OnDevice):
        args = (CUDA, args[0].dtype, *args[1:])
    return _to(tensor, *args, **options)


def _tensor(data: Any, *, device: Any = None, **options: Any) -> Tensor:
    if device is None or torch.device(device).type == "cpu":
        return _new_tensor(data, **options)
    Device.current().wait("copy between host and device")
    return OnDevice(_new_tensor(data, **options))


def _pinned(tensor: Tensor, device: Any = None) -> Tensor:
    copy = tensor.clone()
    copy.pinned = True  # type: ignore[attr-defined]
    return copy
