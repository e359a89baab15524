# Needs Python 3.11 or newer with pip, make and git. Everything else lands in .venv and .tools.
#
#   PYTHON=/path/to/python3.11   another interpreter than python3
#   WHEELS=folder                install from this folder of wheels, without a network (see infra/README.md)

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-all faults bench lint format lock wheels clean

PYTHON ?= python3
LOCK := infra/requirements.lock
INSTALLED := .venv/.installed

# Calling it, not only finding it: the shim of a version manager exists without the program behind it.
UV := $(shell uv --version >/dev/null 2>&1 && command -v uv || echo .tools/bin/uv)
# Trust the certificates that this machine trusts, as pip does: some networks sign with their own.
export UV_SYSTEM_CERTS ?= 1
SOURCE := $(if $(WHEELS),--no-index --find-links "$(WHEELS)")
INTO := --python .venv/bin/python

find_python := $(PYTHON) -c 'import sys; print(sys.executable)'

define check_python
$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit( \
	"$(PYTHON) is older than Python 3.11: make setup PYTHON=/path/to/python3.11")'
endef

define check_wheels
$(if $(WHEELS),ls "$(WHEELS)"/*.whl >/dev/null 2>&1 || { \
	echo 'No wheels in $(WHEELS). On a machine with a network: make wheels WHEELS=folder' >&2; exit 1; })
endef

define fetch_uv
test -x $(UV) || $(PYTHON) -m pip install $(SOURCE) --target .tools uv
endef

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## install the pinned set of packages and the project into .venv

demo: setup ## train on the sample photographs, register the model, predict, and print the scores
	@.venv/bin/rsrnet demo

test: lint ## check the style and the types, run the tests (at most 20 minutes on 2 cores)
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -m "not slow"

test-slow: setup ## run the tests that take minutes each
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -m slow

test-all: test test-slow ## run both

faults: setup ## make things fail that fail on clusters, and print what became of the jobs
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest tests/faults -m "slow or not slow"

# ONLY="loss training_step" runs these alone and keeps the other figures.
bench: setup ## measure the speed against the plain forms, write benchmarks.json and the table in README.md
	.venv/bin/python tests/benchmarks/table.py $(ONLY)

lint: setup ## check the style and the types
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

format: setup ## format the code and sort the imports
	.venv/bin/ruff check --select I --fix
	.venv/bin/ruff format

lock: ## pin the dependencies of pyproject.toml anew, keeping the pins that still fit
	@$(fetch_uv)
	$(UV) pip compile --quiet pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header -o $(LOCK)

wheels: ## download what an offline machine needs: make wheels WHEELS=folder
	@test -n "$(WHEELS)" || { echo 'Name the folder to fill: make wheels WHEELS=folder' >&2; exit 1; }
	@$(check_python)
	$(PYTHON) -m pip download --only-binary :all: --no-deps --require-hashes -r $(LOCK) -d "$(WHEELS)"
	$(PYTHON) -m pip download --only-binary :all: --no-deps uv -d "$(WHEELS)"

clean: ## remove .venv, .tools and the caches; data and runs stay
	rm -rf .venv .tools .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment in .venv. Another activated environment is not touched, whatever VIRTUAL_ENV says.
$(INSTALLED): $(LOCK) pyproject.toml
	@$(check_python)
	@$(check_wheels)
	@$(fetch_uv)
	@test -x .venv/bin/python || $(UV) venv --clear --no-python-downloads --python "$$($(find_python))" .venv
	@echo 'Installing the packages of $(LOCK): 1 to 3 minutes the first time'
	@$(UV) pip sync $(INTO) $(SOURCE) --require-hashes --compile-bytecode $(LOCK)
	@$(UV) pip install $(INTO) $(SOURCE) --no-deps --no-build-isolation --editable .
	@touch $@
