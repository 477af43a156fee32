"""Compiles a kernel family against the emulator (see emulator.h), and gives it memory that shows every stray access."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc" / "include"
CACHE = HERE.parents[1] / "build" / "cuda_on_cpu"
PAGE = 4096


def _compiler() -> str | None:
    """g++ 12 or later (16-bit floats in C++) on Linux (thread-local memory found by its loader)."""
    found = shutil.which("g++") if sys.platform == "linux" else None
    if found is None:
        return None
    version = subprocess.run([found, "-dumpversion"], capture_output=True, text=True).stdout
    return found if version.split(".")[0].strip().isdigit() and int(version.split(".")[0]) >= 12 else None


COMPILER = _compiler()
# Undefined behavior traps: misaligned access, overflow, indices beyond a fixed array. Shared memory needs no
# constructors, and each library keeps its own. Fortification would forbid the jumps between stacks.
FLAGS = ("-std=c++20", "-O1", "-g1", "-fPIC", "-ffp-contract=off", "-fno-extern-tls-init", "-fno-gnu-unique")
FLAGS += ("-U_FORTIFY_SOURCE", "-fsanitize=undefined", "-fsanitize-undefined-trap-on-error")

# Before every access of a kernel: a call into emulator_traffic.cpp.
COUNTED = ("-fsanitize=thread", "--param=tsan-instrument-func-entry-exit=0")
EMULATOR = ("emulator", "emulator_memory", "emulator_traffic", "emulator_waits")
ORDERS = ("forward", "backward", "random")


class LaunchError(RuntimeError):
    """What the emulator found wrong with a launch."""


def _compile(arguments: list[str]) -> bytes:
    found = subprocess.run([str(COMPILER), *FLAGS, *arguments], capture_output=True)
    if found.returncode != 0:
        raise RuntimeError(found.stderr.decode()[-5000:])
    return found.stdout


def _object(source: Path) -> Path:
    """Compiled, or as compiled before from the same text, headers included."""
    flags = () if source.stem in EMULATOR else COUNTED
    arguments = [*flags, f"-I{HERE / 'include'}", f"-I{CSRC}", str(source)]
    text = _compile([*arguments, "-E"])
    key = hashlib.sha256(" ".join((*FLAGS, *flags)).encode() + text).hexdigest()[:16]
    target = CACHE / f"{source.stem}-{key}.o"
    if not target.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        made = target.with_suffix(f".{os.getpid()}.o")
        _compile([*arguments, "-c", "-o", str(made)])
        made.replace(target)
    return target


@dataclass
class Traffic:
    """Bytes that launches moved; `again` are those of `loaded` that the same launch had loaded before."""

    loaded: int = 0
    again: int = 0
    stored: int = 0
    launches: int = 0

    @property
    def moved(self) -> int:
        """From and to memory, as far as a second load comes from the cache."""
        return self.loaded - self.again + self.stored


class Library:
    """The functions of a family, and the emulator beneath them."""

    def __init__(self, path: Path):
        self._c = ctypes.CDLL(str(path))
        self._c.emulator_allocate.restype = ctypes.c_void_p
        self._c.emulator_allocate.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int]
        self._c.emulator_free_all.restype = ctypes.c_char_p
        self._c.emulator_error.restype = ctypes.c_char_p
        self._c.emulator_machine.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_uint64]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._c, name)

    def machine(
        self, order: str, seed: int = 0, processors: int = 4, shared_memory: int = 227 * 1024, clusters: bool = True
    ) -> None:
        """The GPU that the next launches run on, and the order in which its threads do."""
        self._c.emulator_machine(processors, shared_memory, clusters, ORDERS.index(order), seed)

    def check(self, name: str, *arguments: Any) -> None:
        """Calls a function that returns `emulator::status`; LaunchError says what went wrong."""
        if getattr(self._c, name)(*arguments) != 0:
            raise LaunchError(self._c.emulator_error().decode())

    @contextmanager
    def counted(self) -> Iterator[Traffic]:
        """What launches meanwhile load from `memory()` and store there, known at the end of the block.

        An atomic is a load and a store. What lanes of a warp load from one address at once counts once.
        """
        traffic = Traffic()
        self._c.emulator_count()
        try:
            yield traffic
        finally:
            found = (ctypes.c_int64 * 4)()
            self._c.emulator_counted(found)
            traffic.loaded, traffic.again, traffic.stored, traffic.launches = found

    @contextmanager
    def memory(self) -> Iterator[Memory]:
        """Arrays that live until the end of the block, where writes beside them are an error."""
        memory = Memory(self._c)
        try:
            yield memory
        finally:
            damaged = self._c.emulator_free_all().decode()
        if damaged:
            raise LaunchError(f"a write beside '{damaged}'")


class Memory:
    """Tensors between pages that nobody may touch. What is not filled is NaN (integers: -1)."""

    def __init__(self, library: ctypes.CDLL):
        self._c = library

    def empty(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, shift: int | None = None) -> Tensor:
        """Ends with its page, wherever that makes it begin; or begins `shift` elements behind the start of a page."""
        count = int(torch.Size(shape).numel())
        size = torch.empty((), dtype=dtype).element_size()
        at = self._c.emulator_allocate(name.encode(), count * size, -1 if shift is None else shift * size)
        if count == 0:
            return torch.empty(shape, dtype=dtype)
        raw = (ctypes.c_uint8 * (count * size)).from_address(at)
        return torch.frombuffer(raw, dtype=dtype).view(shape)

    def copy(self, name: str, tensor: Tensor, shift: int | None = None) -> Tensor:
        """`tensor` there, without gaps."""
        return self.empty(name, tuple(tensor.shape), tensor.dtype, shift).copy_(tensor)

    @contextmanager
    def hidden(self, rows: list[Tensor]) -> Iterator[None]:
        """Whole pages around these rows that nobody may read, until the end of the block."""
        libc = ctypes.CDLL(None)

        def protect(protection: int) -> None:
            for row in rows:
                begin, end = row.data_ptr() // PAGE * PAGE, row.data_ptr() + row.nbytes
                assert libc.mprotect(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), protection) == 0

        protect(0)
        try:
            yield
        finally:
            protect(3)  # to be read and written

    def rows(self, name: str, tensor: Tensor, gap: int, shift: int | None = None) -> Tensor:
        """The rows of `tensor` there, `gap` elements apart; the gaps are NaN. Nothing follows the last row."""
        count, columns = tensor.shape
        held = self.empty(name, (count * (columns + gap) - gap,), tensor.dtype, shift)
        return held.as_strided((count, columns), (columns + gap, 1)).copy_(tensor)


@functools.cache
def library(name: str) -> Library:
    """`name`.cpp of this folder with the emulator."""
    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(_object, (HERE / f"{stem}.cpp" for stem in (name, *EMULATOR))))
    key = hashlib.sha256("".join(path.name for path in objects).encode()).hexdigest()[:16]
    shared = CACHE / f"{name}-{key}.so"
    if not shared.exists():
        made = shared.with_suffix(f".{os.getpid()}.so")
        _compile(["-shared", *map(str, objects), "-pthread", "-ldl", "-o", str(made)])
        made.replace(shared)
    return Library(shared)
