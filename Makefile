PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
CLIENTS := .venv-clients
export PIP_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-clients clients-table lint format bench docs clean

help:  ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

# torch comes first, at its pinned version: an unpinned one takes several gigabytes.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --editable ".[dev]"
	@touch $@

# Everything is named with its version, so that nothing has to be resolved; but torch brings what it needs itself.
$(CLIENTS)/.installed: export PIP_CONSTRAINT := constraints-clients.txt
$(CLIENTS)/.installed: pyproject.toml constraints-clients.txt
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/pip install --quiet torch==2.13.0
	$(CLIENTS)/bin/pip install --quiet --no-deps --no-compile --requirement constraints-clients.txt
	$(CLIENTS)/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(INSTALLED)  ## Train two networks and compare their complexity (DEMO="--quick" for a short one)
	@$(BIN)/lightning-complexity demo $(DEMO)

test: lint  ## Lint, types and tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

test-slow: $(INSTALLED)  ## The long tests, a browser among them
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow --numprocesses 2 --dist worksteal

test-clients: $(CLIENTS)/.installed  ## Trainings of a dozen published packages, in an environment of their own
	OMP_NUM_THREADS=1 $(CLIENTS)/bin/python -m pytest -o addopts="-q --strict-markers" --numprocesses 2 --dist loadgroup tests/clients

clients-table: $(CLIENTS)/.installed  ## Write docs/clients.md as these trainings are seen now
	OMP_NUM_THREADS=1 $(CLIENTS)/bin/python -m tests.clients

lint: $(INSTALLED)  ## Style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)  ## Put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)  ## Cost of every metric and regularizer, as ratios to a training step
	$(BIN)/python -m benchmarks $(BENCH)

docs: $(INSTALLED)  ## Bring the catalogue up to date, and build the API pages in build/docs
	$(BIN)/python docs/catalogue.py
	$(BIN)/pdoc --math --docformat google --output-directory build/docs lightning_complexity

clean:  ## Remove the environment and everything built
	rm -rf .venv $(CLIENTS) build dist complexity_demo lightning_logs .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
