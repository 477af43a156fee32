#!/usr/bin/env bash
# The fast tests on the oldest PyTorch that pyproject.toml admits and CPU kernels built against it, in an environment and a
# copy of the sources of their own (build/floor, several GB). tools/floor.sh 2.8.0 takes another version; what follows it goes
# to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
version=${1:-$(sed -n 's/^ *"torch>=\([0-9.]*\)",$/\1.0/p' pyproject.toml)}
shift || true
folder=build/floor/$version
mkdir -p "$folder/src"
test -x "$folder/bin/python" || "${PYTHON:-python3}" -m venv "$folder"
python=$PWD/$folder/bin/python
# NumPy 2.4 no longer makes a number of a one-element array, as the Triton interpreters of that time ask it to.
"$python" -m pip install --quiet "torch==$version" torchvision 'numpy<2.4' 'setuptools<76' wheel ninja
find "$folder/src" -mindepth 1 -maxdepth 1 ! -name build -exec rm -r {} +  # what the sources no longer have
git ls-files -z --cached --others --exclude-standard |
  xargs -0 cp --parents --no-dereference --preserve=timestamps --target-directory "$folder/src"
cd "$folder/src"
export REGFAST_ISA=native
REGFAST_NATIVE=0 "$python" -m pip install --quiet --no-build-isolation --editable '.[report]' \
  pytest pytest-timeout pytest-xdist hypothesis pandas torchmetrics pillow 'timm>=1.0'
REGFAST_NATIVE=cpu REGFAST_REQUIRE_NATIVE=1 "$python" setup.py -q build_ext --inplace  # CUDA would need its own nvcc
# Pages, commands, files and documents are made of what the others test: an older PyTorch that breaks them breaks those.
above=(cli docs fuzz measurement paper report runs test_evidence.py)
# These test C++ that hardly knows PyTorch, or need a GPU.
apart=(address_sanitizer cuda_on_cpu gpu)
exec "$python" -m pytest -m 'not slow and not exhaustive' --numprocesses auto --dist loadfile \
  "${above[@]/#/--ignore=tests/}" "${apart[@]/#/--ignore=tests/}" "$@"
