"""Builds the native extension regfast._native where there is a compiler; regfast works without it, only slower."""

import os
import shutil
import sys
import warnings
from pathlib import Path

import torch
from setuptools import setup
from torch.utils import cpp_extension

ROOT = Path(__file__).parent
# at::parallel_for is a template that runs serially where _OPENMP is not defined, so Linux compiles with OpenMP. It does
# not link with it: the symbols must come from the runtime that torch has loaded, not from a second pool of threads.
OPENMP = "-fopenmp" if sys.platform.startswith("linux") else "-fopenmp-simd"
CPU_FLAGS = ["-O3", "-fno-trapping-math", "-fno-math-errno", OPENMP, "-fvisibility=hidden", "-g0"]
CUDA_ARCHS = "8.0;9.0;10.0"


def sources(folder: str, suffix: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc" / folder).glob(f"*{suffix}"))


def headers() -> list[str]:
    return [str(path.relative_to(ROOT)) for suffix in ("h", "cuh") for path in (ROOT / "csrc").rglob(f"*.{suffix}")]


def cuda_sources() -> list[str]:
    """The CUDA kernels if torch can use them and nvcc can build them; a GPU need not be in this machine."""
    home = cpp_extension.CUDA_HOME
    nvcc = shutil.which("nvcc") or (home and shutil.which("nvcc", path=str(Path(home) / "bin")))
    if torch.version.cuda is None or not nvcc:
        return []
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", CUDA_ARCHS)
    return sources("cuda", ".cu")


def extension() -> object:
    cuda = cuda_sources()
    macros: list[tuple[str, str | None]] = [("REGFAST_TORCH", f'"{torch.__version__}"')]
    if cuda:
        macros.append(("REGFAST_CUDA_ARCHS", f'"{os.environ["TORCH_CUDA_ARCH_LIST"]}"'))
    flags = {"cxx": CPU_FLAGS, "nvcc": ["-O3", "--expt-relaxed-constexpr", "-lineinfo"]}
    return (cpp_extension.CUDAExtension if cuda else cpp_extension.CppExtension)(
        "regfast._native",
        ["csrc/registration.cpp", *sources("autograd", ".cpp"), *sources("cpu", ".cpp"), *cuda],
        depends=headers(),
        define_macros=macros,
        extra_compile_args=flags if cuda else CPU_FLAGS,
    )


class Build(cpp_extension.BuildExtension):
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
            self.without(error)

    def without(self, error: Exception) -> None:
        if os.environ.get("REGFAST_REQUIRE_NATIVE") == "1":
            raise error
        self.extensions = self.distribution.ext_modules = []
        message = (
            f"regfast is installed WITHOUT its native kernels: building them failed ({type(error).__name__}: {error}). "
            "Everything works, the losses several times slower. REGFAST_REQUIRE_NATIVE=1 turns this into an error."
        )
        warnings.warn(message)
        print(message, file=sys.stderr)


setup(
    ext_modules=[extension()], cmdclass={"build_ext": Build.with_options(use_ninja=shutil.which("ninja") is not None)}
)
