# One target a purpose. `.venv` is set up once and again only when pyproject.toml changes.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
DEVELOP := .venv/.develop

.PHONY: demo test check lint types cov bench torture mutation pictures clean

demo: $(READY)  ## drive runs through every status
	$(BIN)/runstate demo $(DEMO)

test: $(DEVELOP)  ## run the tests, in about three minutes on two cores
	$(BIN)/python -m pytest -q -n auto

check: lint types cov  ## what CI runs

lint: $(DEVELOP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEVELOP)
	$(BIN)/mypy
	$(BIN)/basedpyright
	PATH="$(CURDIR)/$(BIN):$$PATH" basedpyright --verifytypes runstate --ignoreexternal

cov: $(DEVELOP)  ## the tests of `make test`, with coverage
	$(BIN)/python -m pytest -q -n auto --cov --cov-report=term-missing:skip-covered

bench: $(DEVELOP)  ## measure; decides nothing
	$(BIN)/python -m pip install -q --group bench
	$(BIN)/python benchmarks/in_memory.py
	$(BIN)/python benchmarks/durable.py
	$(BIN)/python benchmarks/durable_more.py
	$(BIN)/python benchmarks/python_cost.py

torture: $(DEVELOP)  ## everything that may happen to a store, for an hour
	$(BIN)/python -m tests.torture --minutes 24 --store postgres
	$(BIN)/python -m tests.torture --minutes 12 --store sqlite
	$(BIN)/python -m tests.torture.simulation --steps 10000000 --processes 2
	$(BIN)/python -m tests.torture.powercuts
	$(BIN)/python -m tests.torture.trials
	$(BIN)/python -m tests.torture.hunt

mutation: $(DEVELOP)  ## change the code in a thousand ways, and see which the tests miss
	$(BIN)/python -m pip install -q --group mutation
	$(BIN)/mutmut run
	$(BIN)/mutmut results

pictures: $(READY)  ## draw the README's table and lanes again
	$(BIN)/python -m runstate.diagram.readme README.md docs/lifecycle.md
	$(BIN)/runstate diagram --format svg --output docs/lanes.svg
	$(BIN)/runstate scenes --quick --record examples/recorded.jsonl >/dev/null

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage mutants

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --upgrade "pip>=25.1"
	$(BIN)/python -m pip install -q -e ".[cli]"
	@touch $@

$(DEVELOP): $(READY)
	$(BIN)/python -m pip install -q --group dev
	@touch $@
