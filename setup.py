"""Builds the native extension regfast._native where there is a compiler; regfast works without it, only slower.

REGFAST_NATIVE=0 leaves the extension out, REGFAST_NATIVE=cpu its CUDA kernels; REGFAST_REQUIRE_NATIVE=1 makes it an
error to go without. REGFAST_ISA=native compiles the CPU kernels for this machine's processor alone, in half the time.
"""

from __future__ import annotations

import os
import shutil
import site
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext

# pip builds in an environment of its own, which hides the torch that the extension is for: that of the interpreter.
sys.path += [path for path in site.getsitepackages() if path not in sys.path]
try:
    import torch
    from torch.utils import cpp_extension
except ImportError:  # the sources can be packed without it
    torch = cpp_extension = None

ROOT = Path(__file__).parent
STRICT = os.environ.get("REGFAST_REQUIRE_NATIVE") == "1"
# at::parallel_for is a template that runs serially where _OPENMP is not defined, so Linux compiles with OpenMP. It does
# not link with it: the symbols must come from the runtime that torch has loaded, not from a second pool of threads.
OPENMP = "-fopenmp" if sys.platform.startswith("linux") else "-fopenmp-simd"
CPU_FLAGS = ["-O3", "-fno-trapping-math", "-fno-math-errno", OPENMP, "-fvisibility=hidden", "-g0"]
# What takes less to compile than torch's headers do goes through the compiler in one piece.
TOGETHER = {
    "autograd": [
        "autograd/soft_cross_entropy",
        "autograd/linear_soft_cross_entropy",
        "autograd/feature_stats",
        "autograd/loss_of_labels",
    ],
    "losses": ["cpu/soft_cross_entropy", "cpu/loss", "cpu/gradient_memory"],
    "attacks": ["cpu/objective", "cpu/perturbation", "cpu/feature_attack", "cpu/boundary"],
    "features": ["cpu/feature_stats", "cpu/philox"],
    "linear": ["cpu/linear_soft_cross_entropy", "registration"],
}
ISA = {"AVX512": "x86-64-v4", "AVX2": "x86-64-v3"}  # torch's names of what a processor can do, and the compiler's
# ninja is installed beside the interpreter, which need not be on the PATH.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def sources(folder: str, suffix: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc" / folder).rglob(f"*{suffix}"))


def cpp_sources() -> list[str]:
    """Every C++ file, those of TOGETHER in files that include them."""
    alone, joined = sources("", ".cpp"), []
    folder = ROOT / "build" / "native" / "together"
    folder.mkdir(parents=True, exist_ok=True)
    for name, files in TOGETHER.items():
        inside = [path for path in (f"csrc/{file}.cpp" for file in files) if path in alone]
        alone = [path for path in alone if path not in inside]
        path, text = folder / f"{name}.cpp", "".join(f'#include "../../../{included}"\n' for included in inside)
        if not path.is_file() or path.read_text() != text:  # what is written anew is compiled anew
            path.write_text(text)
        joined.append(str(path.relative_to(ROOT)))
    return joined + alone


def headers() -> list[str]:
    return [str(path.relative_to(ROOT)) for suffix in ("h", "cuh") for path in (ROOT / "csrc").rglob(f"*.{suffix}")]


def cuda_sources() -> list[str]:
    """The CUDA kernels if torch can use them and nvcc can build them; a GPU need not be in this machine."""
    if os.environ.get("REGFAST_NATIVE") == "cpu":
        return []
    home = cpp_extension.CUDA_HOME
    nvcc = shutil.which("nvcc") or (home and shutil.which("nvcc", path=str(Path(home) / "bin")))
    return sources("cuda", ".cu") if torch.version.cuda is not None and nvcc else []


def cuda_archs() -> str:
    """What the kernels are compiled for, as in `sm_80 sm_90 compute_90` (the last: also for every later GPU).

    TORCH_CUDA_ARCH_LIST says it, or else torch looks at the GPUs in this machine; where there is none, what most have.
    """
    if not torch.cuda.is_available():
        recent = tuple(map(int, torch.version.cuda.split("."))) >= (12, 8)
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "8.0;9.0;10.0+PTX" if recent else "8.0;9.0+PTX")
    return " ".join(flag.rpartition("code=")[2] for flag in cpp_extension._get_cuda_arch_flags())


def extension(cuda: list[str]) -> object:
    macros: list[tuple[str, str | None]] = [("REGFAST_TORCH", f'"{torch.__version__}"')]
    isa = ISA.get(torch.backends.cpu.get_cpu_capability())
    if os.environ.get("REGFAST_ISA") == "native" and isa:
        macros += [("REGFAST_ISA", f'"{isa}"'), ("REGFAST_ISA_FUSES", "true")]
    if cuda:
        macros.append(("REGFAST_CUDA_ARCHS", f'"{cuda_archs()}"'))
    flags = {"cxx": CPU_FLAGS, "nvcc": ["-O3", "--expt-relaxed-constexpr", "-lineinfo"]}
    return (cpp_extension.CUDAExtension if cuda else cpp_extension.CppExtension)(
        "regfast._native",
        [*cpp_sources(), *cuda],
        depends=[*headers(), *sources("", ".cpp")],
        define_macros=macros,
        extra_compile_args=flags if cuda else CPU_FLAGS,
    )


def say(message: str) -> None:
    print(message, file=sys.stderr)  # pip shows it with -v


class Build(cpp_extension.BuildExtension if cpp_extension else build_ext):
    """Ninja rebuilds what changed; a failed build leaves a pure-Python package behind, and says so."""

    def finalize_options(self) -> None:
        super().finalize_options()
        # An editable install builds in a temporary folder of its own: nothing would be left to build upon.
        self.build_temp = str(ROOT / "build" / "native")

    def run(self) -> None:
        try:
            super().run()
        except Exception as error:  # whatever a broken toolchain throws, regfast still installs
            self.without(error)

    def build_extensions(self) -> None:
        try:
            super().build_extensions()
        except Exception as error:
            self.without_cuda(error)

    def without_cuda(self, error: Exception) -> None:
        only = self.extensions[0]
        if STRICT or not any(source.endswith(".cu") for source in only.sources):
            raise error
        say(f"regfast's CUDA kernels cannot be built here ({type(error).__name__}: {error}): going on without them.")
        vars(only).update(vars(extension(cuda=[])))
        super().build_extensions()

    def without(self, error: Exception) -> None:
        if STRICT:
            raise error
        self.extensions = self.distribution.ext_modules = []
        say(
            f"regfast is installed WITHOUT its native kernels: building them failed ({type(error).__name__}: {error}). "
            "Everything works, the losses several times slower. REGFAST_REQUIRE_NATIVE=1 turns this into an error."
        )


def extensions() -> list[object]:
    if os.environ.get("REGFAST_NATIVE") == "0":
        return []
    if torch is None:
        if STRICT:
            raise ModuleNotFoundError(
                "regfast's native kernels are compiled against torch, which is not installed here"
            )
        say(
            "regfast is built WITHOUT its native kernels: torch is not installed. Install it first, then regfast again."
        )
        return []
    return [extension(cuda_sources())]


setup(ext_modules=extensions(), cmdclass={"build_ext": Build})
