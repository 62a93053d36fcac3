# make demo: set up and run the main job.   make test: set up and pass the fast tests.   make test-all: slow and system tests too.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test test-all test-rest lint clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade -c constraints.txt pip setuptools
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

demo: $(READY)
	$(BIN)/koosh demo --out demo

test: $(READY)
	$(BIN)/python -m pytest -q -m "not slow and not system and not gpu"

test-all: test test-rest

test-rest: $(READY)
	$(BIN)/python -m pytest -q -m "(slow or system) and not gpu"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
