# `make help` lists what can be made. VENV names the environment, PYTHON the interpreter it is made of.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.ready
FAST := -m "not slow and not system and not gpu"
# setuptools warns that folders beside an editable install could hide its packages; ours are inside gadgets/ and models/
PIP := PYTHONWARNINGS="ignore:Editable installation" $(BIN)/python -m pip install --quiet

# the half that meets ismrmrd and numpy, and the half that meets torch when a scan is reconstructed
WIRE := tests/gadgets/wire tests/gadgets/test_files.py tests/gadgets/test_pipeline.py tests/gadgets/test_server.py tests/gadgets/test_replay.py
INFERENCE := tests/models/test_nufft.py tests/models/test_operators.py tests/models/test_classical.py tests/models/networks tests/models/weights

.PHONY: help setup demo docs test test-all test-rest test-with test-ismrmrd14 test-numpy126 test-torch27 lint clean

help:  ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*  ## \(.*\)/\1\t\2/p' Makefile | expand -t 18

setup: $(READY)  ## an environment in .venv with all that development needs

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade -c constraints.txt pip setuptools
	$(PIP) -c constraints.txt -e ".[dev]"
	touch $@

demo: $(READY)  ## sets up; a simulated scan through a real socket to images, DICOM and demo/report.html
	$(BIN)/koosh demo --out demo

test: $(READY)  ## sets up; the fast tests
	$(BIN)/python -m pytest -q $(FAST)

test-all: test test-rest  ## slow and system tests too; .ci/run installs the programs they need

test-rest: $(READY)
	$(BIN)/python -m pytest -q -m "(slow or system) and not gpu"

# The tests in an environment of its own, with other versions than constraints.txt has:
#   make test-with WITH="ismrmrd==1.14.1 numpy==1.26.4" TESTS=tests/gadgets PYTHON=python3.10
test-with: OTHER := .venv-with
test-with:  ## TESTS with other versions: WITH="ismrmrd==1.14.1", PYTHON=python3.10
	rm -rf $(OTHER) && $(PYTHON) -m venv $(OTHER)
	$(OTHER)/bin/python -m pip install --quiet --upgrade -c constraints.txt pip
	grep -v $(foreach pin,$(WITH),-e '^$(firstword $(subst =, ,$(pin)))==') constraints.txt > $(OTHER)/constraints.txt
	$(OTHER)/bin/python -m pip install --quiet -c $(OTHER)/constraints.txt $(WITH) ".[dicom,train]" \
	  torchkbnufft pytest pytest-timeout hypothesis gadgetron scikit-image nibabel
	$(OTHER)/bin/python -m pytest -q $(FAST) $(TESTS)
	rm -rf $(OTHER)

test-ismrmrd14:  ## wire and file tests with ismrmrd 1.14
	$(MAKE) test-with WITH="ismrmrd==1.14.1" TESTS="$(WIRE)"

test-numpy126:  ## the same and inference with numpy 1.26, and the last torchkbnufft that takes it
	$(MAKE) test-with WITH="numpy==1.26.4 torchkbnufft==1.5.1" TESTS="$(WIRE) $(INFERENCE)"

test-torch27:  ## inference with torch 2.7.1, as OpenRecon has it; downloads 3 GB
	$(MAKE) test-with WITH="torch==2.7.1" TESTS="$(INFERENCE)"

# any warning fails it; site/index.html opens without a server and without a network
docs: $(READY)  ## the pages as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

lint: $(READY)  ## ruff, mypy, and that nothing needs a newer Python than 3.10
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/vermin --quiet --target=3.10- --no-tips gadgets models benchmarks tests docker

clean:  ## removes what was made here
	rm -rf $(VENV) .venv-with demo site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
