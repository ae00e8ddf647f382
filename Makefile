# One target a purpose. Each environment is installed from a lock file in requirements/ and set up anew when the lock
# changes. `make lock` writes the locks.
PYTHON ?= python3
BIN := .venv/bin
DEMO_READY := .venv/.demo
TEST_READY := .venv/.test
DEV_READY := .venv/.dev
BENCH_READY := .venv/.bench
MUTATION_READY := .venv/.mutation
PYTEST := $(BIN)/python -m pytest -q -n auto --dist worksteal

# The tests start a few hundred processes. Without a cache each of them would compile the library first.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo docs test test-quick test-newest test-lowest test-renamed check lint types cov bench torture mutation pictures lock lock-lowest clean

demo: $(DEMO_READY)  ## drive runs through every status
	$(BIN)/runstate demo $(DEMO)

test: $(TEST_READY)  ## run all tests but the slow and the foreign ones
	$(PYTEST) -m "not slow and not foreign"

test-quick: $(TEST_READY)  ## run what needs no server and no other process
	$(PYTEST) -m "not slow and not foreign and not server and not process"

test-newest: .venv-newest/.ready  ## run the tests with the newest releases of everything
	.venv-newest/bin/python -m pytest -q -n auto --dist worksteal -m "not slow and not foreign"

test-lowest: .venv-lowest/.ready  ## run the tests with the lowest releases that pyproject.toml promises, on Python 3.11
	.venv-lowest/bin/python -m pytest -q -n auto --dist worksteal -m "not slow and not foreign"

test-renamed: $(TEST_READY)  ## run the tests while PyYAML, click and other libraries say everything in other words
	PYTHONPATH=tests/support/foreign_words $(PYTEST) -m "not slow and not foreign"

check: lint types docs cov  ## what CI runs: linters, types, the site, and all the tests, the slow and the foreign ones too

lint: $(DEV_READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV_READY)
	$(BIN)/mypy
	$(BIN)/basedpyright
	PATH="$(CURDIR)/$(BIN):$$PATH" basedpyright --verifytypes runstate --ignoreexternal

cov: $(DEV_READY)  ## all the tests, with coverage
	$(PYTEST) --cov --cov-report=term-missing:skip-covered

docs: $(DEV_READY)  ## build the documentation site in docs/_build; a warning is an error
	$(BIN)/python -m sphinx --fail-on-warning --keep-going -q -b html docs docs/_build

bench: $(BENCH_READY)  ## measure; decides nothing
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.durable
	$(BIN)/python -m benchmarks.durable.steps
	$(BIN)/python -m benchmarks.durable.events
	$(BIN)/python -m benchmarks.durable.watch
	$(BIN)/python -m benchmarks.durable.latency
	$(BIN)/python -m benchmarks.durable.python_cost

torture: $(TEST_READY)  ## everything that may happen to a store, for an hour
	$(BIN)/python -m torture --minutes 24 --store postgres
	$(BIN)/python -m torture --minutes 12 --store sqlite
	$(BIN)/python -m torture.simulation --steps 10000000 --processes 2
	$(BIN)/python -m torture.powercuts
	$(BIN)/python -m torture.trials
	$(BIN)/python -m torture.hunt

mutation: $(MUTATION_READY)  ## change the code in a thousand ways, and see which the tests miss
	$(BIN)/mutmut run
	$(BIN)/mutmut results

pictures: $(DEMO_READY)  ## make the tables and diagrams of the README and of docs/ again
	$(BIN)/python -m runstate.diagram.readme docs/lifecycle.md
	$(BIN)/runstate diagram --format svg --output docs/lanes.svg
	$(BIN)/python -m tests.architecture.picture
	$(BIN)/python examples/scenes.py --record examples/recorded.jsonl >/dev/null

clean:
	rm -rf docs/_build .venv .venv-newest .venv-lowest .venv-lock
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage mutants

# --- environments -----------------------------------------------------------------------------------------------------

# $(call install,FOLDER,LOCK): every package at the version and the hash of the lock, and then this project as it is.
# A lock is complete, so pip resolves nothing. It would look for the newest release of what has an extra (psycopg[pool])
# beside the one that is pinned, and refuse to go on.
define install
	test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install -q --require-hashes --no-deps -r requirements/$(2).txt
	$(1)/bin/python -m pip check
	$(1)/bin/python -m pip install -q --no-deps --no-build-isolation -e .
endef

.venv/.%: requirements/%.txt pyproject.toml
	$(call install,.venv,$*)
	@touch $@

.venv-newest/.ready: pyproject.toml
	$(PYTHON) -m venv --clear .venv-newest
	.venv-newest/bin/python -m pip install -q --upgrade "pip>=25.1"
	.venv-newest/bin/python -m pip install -q -e ".[cli,postgres,pydantic-ai,otel,alembic,django]" --group test
	@touch $@

.venv-lowest/.ready: requirements/lowest.txt pyproject.toml
	$(call install,.venv-lowest,lowest)
	@touch $@

# --- locks ------------------------------------------------------------------------------------------------------------

# One file an environment, for every Python that pyproject.toml promises. The smaller ones take their versions from
# dev.txt, so that installing one over another changes nothing. No address of an index is written.
COMPILE := .venv-lock/bin/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --upgrade \
	--generate-hashes --no-emit-index-url --no-annotate
EXTRAS := --extra cli --extra postgres --extra pydantic-ai --extra otel --extra alembic --extra django
export UV_CUSTOM_COMPILE_COMMAND := make lock

lock: .venv-lock/.ready  ## pin the newest releases that fit together, with their hashes
	$(COMPILE) --group dev $(EXTRAS) --output-file requirements/dev.txt
	$(COMPILE) --group build --extra cli --constraints requirements/dev.txt --output-file requirements/demo.txt
	$(COMPILE) --group test $(EXTRAS) --constraints requirements/dev.txt --output-file requirements/test.txt
	$(COMPILE) --group bench $(EXTRAS) --constraints requirements/dev.txt --output-file requirements/bench.txt
	$(COMPILE) --group mutation $(EXTRAS) --constraints requirements/dev.txt --output-file requirements/mutation.txt
	$(COMPILE) --group lock --output-file requirements/lock.txt
	$(MAKE) lock-lowest

lock-lowest: .venv-lock/.ready  ## pin the lowest releases of what users install; the rest stays as in test.txt
	.venv-lock/bin/uv pip compile pyproject.toml --quiet $(EXTRAS) --python-version 3.11 --resolution lowest-direct \
		--no-deps --no-emit-index-url --no-annotate --output-file .venv-lock/lowest-direct.txt
	cp requirements/test.txt requirements/lowest.txt
	.venv-lock/bin/uv pip compile pyproject.toml --quiet $(EXTRAS) --group test --python-version 3.11 --universal \
		--generate-hashes --no-emit-index-url --no-annotate --constraints .venv-lock/lowest-direct.txt \
		--output-file requirements/lowest.txt

.venv-lock/.ready: requirements/lock.txt
	test -x .venv-lock/bin/python || $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install -q --require-hashes -r requirements/lock.txt
	@touch $@
