# Needs only Python >= 3.11, git and make: tools/bootstrap.py brings uv, uv brings the rest.
.DEFAULT_GOAL := help
PYTHON ?= python3
UV = $$($(PYTHON) tools/bootstrap.py)
BIN = .venv/bin

.PHONY: help setup demo test quick lint format bench faults clean

help: ## show what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

setup: ## make .venv, so that .venv/bin/rowmill works
	@UV="$(UV)" && test -n "$$UV" && "$$UV" sync --locked --quiet --compile-bytecode

demo: setup ## run the bundled sheet against the built-in fake Dify
	@$(BIN)/rowmill demo

test: setup lint ## everything: lint, types, floors, all tests, coverage gates
	@$(BIN)/python tools/run_tests.py

quick: setup ## the tests that start no processes of their own
	@$(BIN)/python -m pytest -q -n 2 -m "not slow"

lint: setup ## ruff, strict types, floors
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

format: setup ## put the code into shape
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

faults: setup ## the fault matrix in its long form (hours); rewrites docs/reference/faults.md
	@$(BIN)/python tools/run_faults.py

bench: setup ## speed and memory, as ratios measured in one run
	@$(BIN)/python -m benchmarks

clean: ## remove what the other targets made
	rm -rf .venv .uv dist build htmlcov .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis
