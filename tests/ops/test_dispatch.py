from __future__ import annotations

import os
import subprocess
import sys
from unittest import mock

import pytest
import torch

import regfast
from regfast.attacks.registry import ATTACKS
from regfast.ops import dispatch
from regfast.ops.reference.boundary import boundary_step
from regfast.ops.reference.soft_cross_entropy import soft_cross_entropy as reference_loss


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


LOSS = "import torch, regfast; regfast.soft_cross_entropy(torch.zeros(2, 3), torch.tensor([0, 1]))"


def test_use_backend_holds_inside_the_block_only():
    before = dispatch._forced
    with regfast.use_backend("reference"):
        assert dispatch.find("soft_cross_entropy", "soft_cross_entropy", torch.zeros(1, 1)) is reference_loss
        with regfast.use_backend(None):
            assert dispatch._forced is None
        assert dispatch._forced == "reference"
    assert dispatch._forced == before


def test_use_backend_as_a_call_holds_on():
    before = dispatch._forced
    try:
        regfast.use_backend("reference")
        assert dispatch._forced == "reference"
    finally:
        regfast.use_backend(before)


def test_the_choice_comes_back_after_an_error():
    before = dispatch._forced
    with pytest.raises(KeyError), regfast.use_backend("reference"):
        raise KeyError
    assert dispatch._forced == before


def test_unknown_and_unavailable_backends():
    with pytest.raises(ValueError, match="backend must be one of reference, cpu, triton, cuda, got 'numpy'"):
        regfast.use_backend("numpy")
    if not torch.cuda.is_available():
        with pytest.raises(regfast.BackendError, match="'cuda' is not available"):
            regfast.use_backend("cuda")


@pytest.mark.parametrize(
    ("archs", "capability", "runs"),
    [
        ("sm_80 sm_90", (8, 0), True),
        ("sm_80 sm_90", (8, 9), True),
        ("sm_86", (8, 0), False),
        ("sm_80 sm_90", (7, 5), False),
        ("sm_80 sm_90", (12, 0), False),
        ("sm_80 sm_100 compute_100", (12, 1), True),
        ("sm_80 compute_80", (7, 5), False),
        ("sm_90a compute_90a", (10, 0), False),
        ("sm_90a", (9, 0), True),
        ("sm_100f", (10, 3), True),
    ],
)
def test_the_cuda_backend_needs_code_for_the_card(archs, capability, runs, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    monkeypatch.setattr(dispatch, "_import_error", lambda name: None)
    monkeypatch.setattr(dispatch, "_native_facts", lambda: {"cuda_archs": archs})
    reason = dispatch.unavailable("cuda")
    if runs:
        assert reason is None
    else:
        assert (
            reason
            == f"the native extension was built for {archs}, a card has capability {capability[0]}.{capability[1]}"
        )


@pytest.mark.parametrize(("wanted", "warnings"), [("", 1), ("reference", 0)])
def test_lost_kernels_warn_once(wanted, warnings):
    code = "import sys; sys.modules['regfast._native'] = None\n" + LOSS + "\n" + LOSS.rpartition("; ")[2]
    done = python(code, REGFAST_BACKEND=wanted, CUDA_VISIBLE_DEVICES="", PYTHONWARNINGS="always")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("runs without its CPU kernels") == warnings


def test_a_backend_that_cannot_serve_says_so(monkeypatch):
    monkeypatch.setattr(dispatch, "_forced", "cuda")
    with pytest.raises(regfast.BackendError, match="'cuda' was asked for, but soft_cross_entropy got a tensor on cpu"):
        regfast.soft_cross_entropy(torch.zeros(2, 3), torch.tensor([0, 1]))


class OnGpu:
    """As much of a CUDA tensor as the table looks at."""

    device, is_cpu = torch.device("cuda"), False

    def __init__(self, *shape, dtype=torch.float32):
        self.shape, self.dtype = torch.Size(shape), dtype

    @property
    def ndim(self):
        return len(self.shape)

    def numel(self):
        return self.shape.numel()


@pytest.mark.parametrize(
    ("family", "function", "tensor", "backend"),
    [
        ("perturbation", "perturb_step", OnGpu(512, 3, 32, 32), "cuda"),
        ("perturbation", "perturb_step", OnGpu(64, 3, 224, 224), "triton"),
        ("perturbation", "perturb_step", OnGpu(4, 3, dtype=torch.float64), "reference"),
        ("objective", "objective", OnGpu(512, 1000), "cuda"),
        ("objective", "objective", OnGpu(4096, 1000), "triton"),
        ("soft_cross_entropy", "soft_cross_entropy", OnGpu(128, 10), "cuda"),
        ("soft_cross_entropy", "soft_cross_entropy", OnGpu(128, 1000, dtype=torch.bfloat16), "cuda"),
        ("soft_cross_entropy", "soft_cross_entropy", OnGpu(32768, 1000, dtype=torch.bfloat16), "triton"),
        ("soft_cross_entropy", "soft_cross_entropy", OnGpu(32768, 1003, dtype=torch.bfloat16), "cuda"),
        ("soft_cross_entropy", "soft_cross_entropy", OnGpu(128, 1003), "cuda"),
        ("soft_cross_entropy", "soft_cross_entropy", OnGpu(128, 21841), "cuda"),
    ],
)
def test_the_table_by_shape(monkeypatch, family, function, tensor, backend):
    class Module:
        def __init__(self, backend):
            self.backend = backend

        def __getattr__(self, _):
            return self.backend.upper  # "a function" that gives the backend's name

    for name in ("_functions", "_candidates"):
        monkeypatch.setattr(dispatch, name, {})
    monkeypatch.setattr(dispatch, "_forced", None)
    monkeypatch.setattr(dispatch, "unavailable", lambda backend: None)
    monkeypatch.setattr(dispatch, "_import", lambda backend, family: Module(backend))
    assert dispatch.find(family, function, tensor)() == backend.upper()


def test_constants_that_require_grad_go_to_reference():
    dense = torch.rand(2, 3, requires_grad=True)
    found = dispatch.find("soft_cross_entropy", "soft_cross_entropy", torch.zeros(2, 3), (dense,))
    assert found is reference_loss
    with torch.no_grad():
        assert dispatch.find("soft_cross_entropy", "soft_cross_entropy", torch.zeros(2, 3), (dense,)) is not None


@pytest.mark.parametrize("backend", [name for name in ("reference", "cpu") if dispatch.unavailable(name) is None])
def test_attacks_run_by_any_backend_that_is_forced(backend):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(75, 4)).eval()
    images = torch.rand(4, 3, 5, 5)
    labels = model(images).argmax(1)
    with regfast.use_backend(backend):
        for name in ("pgd", "apgd", "fab", "square", "fmn", "ddn", "cw"):
            result = ATTACKS.build(f"{name}:steps=2,eps=0.3").run(model, images, labels)
            assert result.clean.all()


def test_what_a_forced_backend_lacks_beside_its_ops_is_the_tables():
    x = torch.rand(2, 3)
    with mock.patch.object(dispatch, "_forced", "cuda"):  # has no kernels of these, and this machine no GPU
        for family in dispatch._BESIDE:
            for function in dispatch.FAMILIES[family]:
                assert callable(dispatch.find(family, function, x))
        with pytest.raises(regfast.BackendError, match="cuda"):
            dispatch.find("soft_cross_entropy", "soft_cross_entropy", x)
    with mock.patch.object(dispatch, "_forced", "reference"):
        assert dispatch.find("boundary", "boundary_step", x) is boundary_step


def test_every_family_has_its_contract_and_reference():
    for family, functions in dispatch.FAMILIES.items():
        contract = __import__(f"regfast.ops.{family}", fromlist=functions)
        reference = __import__(f"regfast.ops.reference.{family}", fromlist=functions)
        for function in functions:
            assert callable(getattr(contract, function)) and callable(getattr(reference, function))


def test_show_config_names_backends_and_reasons():
    text = regfast.show_config()
    assert f"torch {torch.__version__}" in text and "backend reference: available" in text
    for functions in dispatch.FAMILIES.values():
        for function in functions:
            assert f"{function} on cpu: " in text
    if not torch.cuda.is_available():
        assert "backend cuda: not available (" in text


def test_environment_variable():
    result = python(LOSS + "; print(regfast.show_config())", REGFAST_BACKEND="reference")
    assert result.returncode == 0 and "REGFAST_BACKEND: reference" in result.stdout
    result = python(LOSS, REGFAST_BACKEND="fast")
    assert "REGFAST_BACKEND must be one of reference, cpu, triton, cuda, got 'fast'" in result.stderr
    assert python("import regfast", REGFAST_BACKEND="fast").returncode == 0  # importing never fails


def test_a_broken_extension_degrades_to_reference():
    broken = (
        "import sys, types, importlib.abc\n"
        "class Broken(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'regfast._native': raise ImportError('undefined symbol: _ZN3c10')\n"
        "sys.meta_path.insert(0, Broken())\n"
    )
    result = python(broken + LOSS + "; print(regfast.show_config())")
    assert result.returncode == 0, result.stderr
    reason = f"native extension: it was built for another PyTorch than {torch.__version__}"
    assert f"backend cpu: not available ({reason})" in result.stdout
    assert "soft_cross_entropy on cpu: reference" in result.stdout


def loaded_by(code: str) -> list[str]:
    result = python(f"import sys; before = set(sys.modules); {code}; print(*set(sys.modules) - before)")
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def test_import_is_light():
    assert "torch" not in loaded_by("import regfast")
    heavy = ("torchvision", "matplotlib", "triton", "scipy", "sklearn", "torch._dynamo", "regfast.attacks", "regfast._")
    loaded = loaded_by("import regfast; regfast.soft_cross_entropy, regfast.nn, regfast.targets")
    assert "regfast.functional" in loaded and not [name for name in loaded if name.startswith(heavy)]


def test_submodules_are_reached_without_importing_them():
    result = python("import regfast; print(regfast.calibration.__name__); regfast.nonsense")
    assert result.stdout.strip() == "regfast.calibration"
    assert "module 'regfast' has no attribute 'nonsense'" in result.stderr
