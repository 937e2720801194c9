# `make` alone lists the targets. Every target that needs Python tools makes .venv first.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help venv test bare test-all fuzz ways full faults lint format types coverage docs reference compile compiled bench bench-check bench-interpreted build demo clean

# Tests start hundreds of programs, and each worker rewrites the tests' asserts: compiled once, not each time.
unexport PYTHONDONTWRITEBYTECODE

# The newest tested Python that is there; say PYTHON=/path/to/python for another one.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	if command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))'; \
	then echo $$p; break; fi; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# uv takes seconds where pip takes most of a minute, but knows nothing of pip's settings: where these name another index
# or constraints, and where uv reaches nothing, pip does it.
INSTALL = ! $(BIN)/python -m pip config list | grep -qE 'index-url|constraint' && \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv && \
	UV_HTTP_TIMEOUT=10 UV_HTTP_RETRIES=1 $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -e '.[dev]'
# Much of the tests' time is waiting: three workers a core, each of about 150 MB.
WORKERS ?= $(shell echo $$(( $$(getconf _NPROCESSORS_ONLN) * 3 )))
# In the order of the files: the long ones come early, and none is left for the end.
SPREAD := --dist loadfile --no-loadscope-reorder --max-worker-restart 0

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */  \1\t/' | expand -t 16

venv: $(READY)  ## make .venv with everything for development (PYTHON=... chooses the interpreter)

$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python >= 3.11 found: install one, or say make PYTHON=/path/to/python" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) || $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

test: $(READY)  ## the tests, on asyncio and trio, with short sizes (at most 4 minutes)
	$(BIN)/python -m pytest -q -n $(WORKERS) $(SPREAD)

WITHOUT_SPEED := $(CURDIR)/tests/without_speed
bare: $(READY)  ## `make test` as if the extra `speed` were not installed: h11, the standard library's loop, no help for masks
	PYTHONPATH=$(WITHOUT_SPEED) $(BIN)/python -m pytest -q -n $(WORKERS) $(SPREAD)

fuzz: $(READY)  ## the property tests and models with 3000 new examples each (minutes); they print how to repeat a failure
	HYPOTHESIS_PROFILE=deep $(BIN)/python -m pytest -q -n auto -m hypothesis

ways: $(READY)  ## what `make test` leaves: the other backend of programs and ways, everything over long-poll too
	TUNNELKIT_TEST_HALF=second $(BIN)/python -m pytest -q -n $(WORKERS) $(SPREAD) \
		tests/e2e tests/examples tests/faults tests/legacy tests/oracle tests/runtime tests/testing tests/transports

# WHICH, of names as pytest's -k has them, chooses some.
WHICH ?=
full: $(READY)  ## the tests of full size (1 GB bodies and more), on asyncio and trio
	$(BIN)/python -m pytest -q -m full -k "$(WHICH)"

# One tunnel a worker (a class of tests): most of the time is waiting. The attacks come after: they look at how quick
# others are.
FAULTS := -v -m faults tests/faults
faults: $(READY)  ## kill, stop and restart ends, cut links, fill disks, attack slowly (at most 15 minutes; best as root)
	timeout 900 sh -c 'bad=0; $(BIN)/python -m pytest $(FAULTS) -n 4 --dist loadscope -k test_full || bad=1; \
		$(BIN)/python -m pytest $(FAULTS) -k "not test_full" || bad=1; exit $$bad'

test-all: $(READY)  ## all sizes, for every Python found (3.11 to 3.14) and backend, with and without `speed`
	$(BIN)/python scripts/test_all.py

lint: $(READY)  ## ruff: rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)  ## let ruff repair and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(READY)  ## mypy, strict
	$(BIN)/mypy

coverage: $(READY)  ## every core module: 100 % of its branches from its own test file
	$(BIN)/python scripts/own_coverage.py

# That what is tracked is new, the tests hold: tests/test_reference.py and tests/test_api_reference.py.
docs: reference  ## build both references; links and anchors of all documents, and the code blocks marked "run"
	$(BIN)/python scripts/check_docs.py

reference: $(READY)  ## write docs/reference.md anew from the code, and docs/api.md from its docstrings
	$(BIN)/python scripts/make_reference.py
	$(BIN)/python scripts/make_api.py

# The wheel with compiled modules, unpacked; PYTHONPATH puts it before the sources. Another Python makes its own.
COMPILED := build/compiled
COMPILED_READY := $(COMPILED)/.ready
$(COMPILED_READY): $(READY) hatch_build.py Makefile README.md LICENSE $(shell find src -type f ! -name '*.pyc')
	rm -rf $(COMPILED)
	TUNNELKIT_COMPILE=1 $(BIN)/python -m build --no-isolation --wheel --outdir $(COMPILED) .
	cd $(COMPILED) && $(abspath $(BIN)/python) -m zipfile -e *.whl .
	@touch $@

compile: $(COMPILED_READY)  ## the modules that a release has compiled, in build/compiled

# Which tests: `.ci/run` chooses those of the compiled modules and of what stands on them.
TESTS ?= tests
compiled: $(COMPILED_READY)  ## the tests with the modules compiled (hatch_build.py); needs a C compiler, and minutes for it
	PYTHONPATH=$(abspath $(COMPILED)) TUNNELKIT_TEST_COMPILED=1 $(BIN)/python -m pytest -q -n $(WORKERS) $(SPREAD) $(TESTS)

# What is released is compiled, where there is a C compiler.
RELEASED := $(if $(shell command -v cc 2>/dev/null),$(COMPILED_READY))

bench: $(READY) bench-check $(RELEASED)  ## what a tunnel costs, beside nginx alone; needs wrk (BENCH=--quick for ten minutes, --full for hours, --help)
	$(if $(RELEASED),PYTHONPATH=$(abspath $(COMPILED))) $(BIN)/python -m benchmarks $(BENCH)

bench-check: $(READY)  # before minutes of compiling
	@$(BIN)/python -m benchmarks --check $(BENCH)

bench-interpreted: $(READY)  ## what `make bench` measures, with nothing compiled
	$(BIN)/python -m benchmarks $(BENCH)

build: $(READY) $(RELEASED)  ## wheels and sdist, each installed alone in a clean environment, with the examples run against it
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist .
	$(if $(RELEASED),cp $(COMPILED)/*.whl dist)
	$(BIN)/python scripts/check_build.py dist

demo: $(READY)  ## the main job, unattended: origin, server and client as processes, a cut, a queue
	$(BIN)/python examples/demo.py

clean:  ## remove what the targets made
	rm -rf .venv .venv-* dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
