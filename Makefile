# Set-up happens by itself: every target makes the virtual environment that it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEV_READY := $(VENV)/.ready-dev
PEERS := .peers
# Neighbours stay in one process, so that most fixtures of modules are made once and engines are imported once.
SPREAD := -n auto --dist worksteal

# What is compiled is kept, whatever the environment says: else each of the many processes compiles torch anew, seconds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo generate test lint check test-all board docs versions peers clean

generate: $(DEV_READY)  ## the files that follow from settings: options of the command line, schema, reference
	$(BIN)/python -m compress.cli.generate

demo: $(READY)  ## the main job: train, prune, fold, quantize, export, measure, report
	$(BIN)/compress run recipes/demo.yaml -o out/demo --overwrite

test: $(DEV_READY)  ## the fast tests
	$(BIN)/python -m pytest $(SPREAD) --durations=10

lint: $(DEV_READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test  ## what a change must pass

test-all: $(PEERS)/.ready  ## the slow tests as well, over torchvision's networks
	EDGEPRESS_PEERS=$(PEERS) $(BIN)/python -m pytest $(SPREAD) -m "slow or not slow"

board: $(DEV_READY)  ## the tests on an emulated ARM board; apt-get install qemu-user-static openssh-server g++-aarch64-linux-gnu
	$(BIN)/python -m pytest -n 0 -m board tests/board

docs: generate  ## writes anew what the documentation shows, and builds it into out/docs
	$(BIN)/python -m docs.generate
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs out/docs

versions:  ## installs and tries the oldest and newest torch and ONNX Runtime with each Python, and ARM; an hour and 8 GB
	$(PYTHON) -m tests.versions

peers: $(PEERS)/.ready  ## what benchmarks compare with, in a folder of its own

$(PEERS)/.ready: $(DEV_READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(PEERS) \
		torchvision==0.28.0 timm==1.0.31 torch-pruning==1.6.1 pillow huggingface-hub
	touch $@

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

# Python compiles what is imported, when it is first imported; most of what is installed never is.
$(READY): pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/python -m pip install --no-compile --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(DEV_READY): pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/python -m pip install --no-compile --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(READY) $@

clean:
	rm -rf $(VENV) $(PEERS) out build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
