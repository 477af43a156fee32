# regfast: make study · make test · make check · make lint · make bench · make docs · make gpu
#
# The first target that runs sets up .venv; later ones find it and start at once. A stamp in .venv says what is done.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
TORCH  := $(VENV)/.has-torch
LARGE  := $(VENV)/.has-large
STUDY  := $(VENV)/.has-study
DEV    := $(VENV)/.has-dev
NATIVE := $(VENV)/.has-native
SIZE   ?= full
RUN    ?= runs/noisy-digits-$(SIZE)
PIP    := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt
# Each process has half of the files in a row, and takes from the other when it is done: few fixtures are made twice.
PARALLEL := --numprocesses auto --dist worksteal
CSRC   := $(wildcard csrc/*.cpp csrc/*.h csrc/*/*.cpp csrc/*/*.h csrc/*/*.cu csrc/*/*.cuh)

# What is installed there (ninja, mypy) comes first; the kernels compile while pip installs the rest.
export PATH := $(abspath $(BIN)):$(PATH)
MAKEFLAGS += --jobs=2
# pip compiles no bytecode, half a minute for torch: what is imported is compiled then, and kept whatever the shell says.
export PYTHONDONTWRITEBYTECODE :=
# The kernels for this machine's processor alone. `make test-all` compiles the variants of all.
export REGFAST_ISA ?= native

.PHONY: help setup study paper test test-all coverage check lint bench docs gpu clean

help:
	@echo 'make study     train hard, smoothing, Mixup and CutMix on the embedded digits; report in runs/  (SIZE=smoke|small|full)'
	@echo 'make paper     every figure and table of the paper on the embedded digits'
	@echo 'make test      linters, types, layers and tests'
	@echo 'make test-all  the same with the tests that take many minutes, on kernels for every processor'
	@echo 'make coverage  the tests, and which lines they leave out'
	@echo 'make check     linters, types and the fast tests of what differs from main'
	@echo 'make bench     the loss and attack kernels against their peers on this machine'
	@echo 'make docs      the documentation site, in site/'
	@echo 'make gpu       build, test, sanitize and benchmark on a machine with an NVIDIA GPU (its own python3, no network; DRY=1: none needed, every stage starts)'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch comes first: the extension is compiled against this very torch.
$(TORCH): constraints.txt | $(BIN)/python
	$(PIP) torch numpy setuptools wheel ninja
	@touch $@

# Meanwhile the large packages that share none with it.
$(LARGE): | $(BIN)/python
	$(PIP) --no-deps scipy scikit-learn pyarrow matplotlib
	@touch $@

$(NATIVE): $(TORCH) setup.py $(CSRC)
	MAKEFLAGS= $(BIN)/python setup.py -q build_ext --inplace  # ninja would look for the job server of make
	@touch $@

$(STUDY): $(TORCH) $(LARGE) pyproject.toml
	REGFAST_NATIVE=0 $(PIP) --no-build-isolation --editable '.[report]'
	@touch $@

$(DEV): $(STUDY)
	REGFAST_NATIVE=0 $(PIP) --no-build-isolation --editable '.[vision,report,bench,dev,docs]'
	@touch $@

setup: $(NATIVE) $(DEV)

study: $(NATIVE) $(STUDY)
	$(BIN)/regfast study --size $(SIZE) --out $(RUN)

paper: $(NATIVE) $(STUDY)
	$(BIN)/regfast paper --size $(SIZE) --out runs/paper-$(SIZE)

test: lint $(NATIVE)
	$(BIN)/python -m pytest $(PARALLEL)

test-all: lint
	MAKEFLAGS= REGFAST_ISA= $(BIN)/python setup.py -q build_ext --inplace
	$(BIN)/python -m pytest $(PARALLEL) -m ''

# Counting lines takes a quarter more time than `make test`.
coverage: $(NATIVE) $(DEV)
	$(BIN)/python -m pytest $(PARALLEL) --cov --cov-report=term:skip-covered

check: lint $(NATIVE)
	$(BIN)/python -m tools.check

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(NATIVE) $(DEV)
	$(BIN)/python -m benchmarks

docs: $(NATIVE) $(DEV)
	$(BIN)/mkdocs build --strict

gpu:
	bash benchmarks/gpu/run.sh

clean:
	rm -rf build *.egg-info regfast/*.so .coverage .pytest_cache .mypy_cache .ruff_cache site
