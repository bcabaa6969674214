# Two commands matter: `make demo` (clone to table) and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP_OPTIONS := --disable-pip-version-check --progress-bar off
# Tests and demo start many processes on few cores: one torch thread each is fastest.
export OMP_NUM_THREADS ?= 1

.PHONY: install demo test test-slow test-slurm bench lint types site clean

install: $(VENV)/.installed

# What the commands need; `make demo` installs no more. pip compiles to bytecode on one core,
# compileall on all. A package may hold files of other versions of Python, which cannot be compiled
# and are never imported: the status of compileall is ignored.
$(VENV)/.packages: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP_OPTIONS) --no-compile -r requirements.txt
	$(BIN)/python -m pip install $(PIP_OPTIONS) --no-deps -e .
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	touch $@

# What the tests and checks need on top.
$(VENV)/.installed: $(VENV)/.packages requirements-dev.txt
	$(BIN)/python -m pip install $(PIP_OPTIONS) -r requirements-dev.txt
	touch $@

demo: $(VENV)/.packages
	$(BIN)/python sweeps/mask_ratio.py

test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: install
	$(BIN)/python -m pytest -m "slow and not slurm"

test-slurm: install
	$(BIN)/python -m pytest -m slurm

# Speed-ups over other implementations against the committed ones; BENCH=--strict fails after a drop
# of more than 15 %.
bench: install
	$(BIN)/python -m simvtp bench guard $(BENCH)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

# The documentation as pages that open from disk: build/site/index.html.
site: install
	$(BIN)/python -m pip install $(PIP_OPTIONS) -r requirements-docs.txt
	$(BIN)/mkdocs build

clean:
	rm -rf $(VENV) build *.egg-info
