# `make demo` and `make test` build the environment if it is missing: from a fresh clone these two are all.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.umbel-installed

.PHONY: demo test test-slow test-slurm lint bench install clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Umbel needs Python 3.11 or newer: say make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/umbel demo --out demo

# One thread for each of two workers: operations as small as tests have lose far more by waiting for one another's threads.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not slow and not slurm and not gpu' --numprocesses 2

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

# A real cluster on this machine (Debian, root); SLURM_TESTS="slurm" runs the slow ones too.
SLURM_FOLDER ?= /tmp/umbel-slurm
SLURM_TESTS ?= slurm and not slow
test-slurm: $(STAMP)
	tests/slurm/start_slurm.sh $(SLURM_FOLDER)
	UMBEL_SLURM=$(SLURM_FOLDER) $(BIN)/python -m pytest -m '$(SLURM_TESTS)' tests/slurm; code=$$?; \
	tests/slurm/stop_slurm.sh $(SLURM_FOLDER); exit $$code

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python benchmarks/stages.py

clean:
	rm -rf demo dist build
