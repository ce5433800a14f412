# The two commands of the README are `make study` and `make test`; both set up first.
PYTHON ?= python3
BIN := .venv/bin
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: setup study test cluster-test format clean system-packages

setup: .venv/installed

# Made again only when what is to be installed has changed.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

study: setup
	$(BIN)/python -m orchestrator.study studies/quickstart.yaml

test: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist worksteal --durations=15 --ignore tests/system_tests --ignore tests/cluster
	$(BIN)/python -m pytest tests/system_tests/test_quickstart.py  # alone: its Ray takes all CPUs
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations=15 --ignore tests/system_tests/test_quickstart.py tests/system_tests

# Clusters tried for real on this machine, in minutes: machines with networks of their own, and
# docs/cluster/slurm.sh on a Slurm of two nodes. As root; each test names the packages that it needs.
cluster-test: setup
	$(AS_ROOT) $(BIN)/python -B -m pytest -rs -p no:cacheprovider --durations=15 tests/cluster

# What some tests need beyond Python; without it they are skipped and say so.
system-packages:
	$(AS_ROOT) apt-get update -qq
	$(AS_ROOT) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium postgresql texlive-latex-base texlive-latex-recommended >/dev/null

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv runs dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
