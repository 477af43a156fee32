# regfast: make study · make test · make lint · make bench · make docs · make gpu
#
# The first target that runs sets up .venv; later ones find it and start at once.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.regfast-ready
SIZE   ?= full
RUN    ?= runs/noisy-digits-$(SIZE)

.PHONY: help setup study paper test lint bench docs gpu clean

help:
	@echo 'make study   train hard, smoothing, Mixup and CutMix on the embedded digits; report in runs/  (SIZE=smoke|small|full)'
	@echo 'make paper   every figure and table of the paper on the embedded digits'
	@echo 'make test    linters, types, layers and tests'
	@echo 'make bench   the loss and attack kernels against their peers on this machine'
	@echo 'make docs    the documentation site, in site/'
	@echo 'make gpu     build, test, sanitize and benchmark on a machine with an NVIDIA GPU (its own python3, no network)'

# torch comes first and alone: the extension is compiled against this very torch, so there is no build isolation.
$(READY): pyproject.toml setup.py constraints.txt $(wildcard csrc/*.cpp csrc/*.h csrc/*/*.cpp csrc/*/*.h csrc/*/*.cu csrc/*/*.cuh)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=24' 'setuptools>=77' wheel ninja
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch torchvision numpy
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[vision,report,bench,dev,docs]'
	@touch $@

setup: $(READY)

study: $(READY)
	$(BIN)/regfast study --size $(SIZE) --out $(RUN)

paper: $(READY)
	$(BIN)/regfast paper --size $(SIZE) --out runs/paper-$(SIZE)

test: lint
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder --cov --cov-report=term:skip-covered

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python -m benchmarks

docs: $(READY)
	$(BIN)/mkdocs build --strict

gpu:
	bash benchmarks/gpu/run.sh

clean:
	rm -rf build *.egg-info regfast/*.so .coverage .pytest_cache .mypy_cache .ruff_cache site
