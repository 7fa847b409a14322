# Everything that one does here, by name. `make` alone lists it.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# `make test PYTHON=python3.13` has an environment of its own, next to the default one.
VENV   := $(if $(filter file,$(origin PYTHON)),.venv,.venv-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'))
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
OUT    ?= runs
SCALE  ?= cpu

# Two processes share two cores: one thread each, and a waiting thread sleeps instead of spinning.
export OMP_WAIT_POLICY := PASSIVE

.DEFAULT_GOAL := help
.PHONY: help setup run smoke test test-versions test-all lint style direction types format docs linkcheck gallery bench chaos golden clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

setup: $(STAMP) ## an environment (.venv) with the pinned dependencies and firstsight in it

# Debian ships venv without ensurepip; the machine's own pip then installs into the environment from outside.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"firstsight wants Python 3.11 or newer. Got {v.major}.{v.minor}. Try: make setup PYTHON=/path/to/python3.11")'
	@$(PYTHON) -m venv --clear $(VENV) >/dev/null 2>&1 || $(PYTHON) -m venv --clear --without-pip $(VENV)
	@if [ -x $(BIN)/pip ]; then pip="$(BIN)/python -m pip"; else pip="$(PYTHON) -m pip --python $(BIN)/python"; fi; \
	set -x; $$pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

run: setup ## the `when` study at cpu scale with real pictures, and its report
	$(BIN)/firstsight run when --scale cpu --out $(OUT)

smoke: setup ## the same study, tiny, in at most a minute, from nothing
	@rm -rf build/smoke
	$(BIN)/firstsight run when --scale smoke --out build/smoke

test: setup ## the default suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -q --durations 8

test-versions: ## the default suite on every Python that is supported, each in an environment of its own
	for version in 3.11 3.12 3.13; do $(MAKE) test PYTHON=python$$version || exit 1; done

test-all: setup ## the default suite and the slow tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -q -m 'not gpu' --timeout 900

lint: style direction types ## style and formatting, import direction, types

style: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

direction: setup
	$(BIN)/lint-imports

types: setup
	$(BIN)/basedpyright --warnings

format: setup ## let ruff write what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup ## the documentation, warnings as errors, in docs/_build/html
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo docs/_build/html/index.html

linkcheck: setup ## whether the addresses of other sites in the documentation still answer; needs a network
	$(BIN)/python -m sphinx -q -b linkcheck docs docs/_build/linkcheck

gallery: setup ## the gallery of the landing page, from the results in OUT at SCALE; costs of the other studies
	$(BIN)/python docs/gallery.py --store $(OUT) --scale $(SCALE)

bench: setup ## speed of training, decoding, evaluation, data loading and of a finished study, compared with other libraries
	$(BIN)/python benchmarks/step.py --shape toy
	$(BIN)/python benchmarks/step.py --shape 79m
	$(BIN)/python benchmarks/loss.py
	$(BIN)/python benchmarks/decode.py
	$(BIN)/python benchmarks/evaluation.py
	$(BIN)/python benchmarks/scoring.py
	$(BIN)/python benchmarks/bootstrap.py
	$(BIN)/python benchmarks/study.py --out $(OUT)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/images.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/rows.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/audit.py
	$(BIN)/python benchmarks/prepare.py
	$(BIN)/python benchmarks/memory.py

chaos: setup ## kills, damaged files and full disks: the same command must end with the same bytes or name the file
	$(BIN)/python -m benchmarks.chaos

golden: setup ## write the frozen commands, addresses and result files anew; review the diff
	FIRSTSIGHT_GOLDEN=write $(BIN)/python -m pytest -q -n 0 tests/test_house.py tests/evaluate/test_result_files.py -k golden

clean: ## remove the environment and built pages, keep the runs
	rm -rf .venv .venv-* docs/_build .pytest_cache .ruff_cache .import_linter_cache .hypothesis
