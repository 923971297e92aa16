# Set-up happens by itself: every target makes the virtual environment that it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEV_READY := $(VENV)/.ready-dev

.PHONY: demo test lint check test-all clean

demo: $(READY)  ## the main job: train, prune, fold, quantize, export, measure, report
	$(BIN)/compress run recipes/demo.yaml -o out/demo --overwrite

test: $(DEV_READY)  ## the fast tests
	$(BIN)/python -m pytest -n auto

lint: $(DEV_READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test  ## what a change must pass

test-all: $(DEV_READY)  ## the slow tests as well
	$(BIN)/python -m pytest -n auto -m "slow or not slow"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(DEV_READY): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) out build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
