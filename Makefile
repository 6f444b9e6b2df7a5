# Two commands: `make demo` and `make test`. Each sets up what it needs on a fresh Debian machine.
PYTHON ?= /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
export PYTHONDONTWRITEBYTECODE :=   # where it is set, each of hundreds of processes compiles what it imports

.PHONY: setup demo test unit soak differential bench lint clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml scripts/packages scripts/web/package-lock.json
	sh scripts/packages
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -e '.[dev]'
	sh scripts/assets
	$(BIN)/python -m compileall -q src   # as an installed package is; some machines forbid to write it later
	touch $@

demo: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" sh scripts/demo

lint: setup
	$(BIN)/ruff check src tests bench
	$(BIN)/ruff format --check src tests bench
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/lint/foreign_paths.py
	$(BIN)/python scripts/lint/house.py
	$(BIN)/python scripts/lint/unused.py
	$(BIN)/python scripts/sync_client.py --check

unit: setup
	$(BIN)/pytest -q -p no:schemathesis tests/unit -m "not root" -n 2

test: setup
	sh scripts/packages chromium
	$(BIN)/pytest -q --durations 40 -n 3 --dist loadfile --no-loadscope-reorder --reruns 1   # what fails is run once more, and the summary says so: a fault, too

soak: setup
	SAMPAN_SOAK=1 $(BIN)/pytest -q -s --timeout 3600 tests/faults tests/security tests/unit/test_hostile_guest.py tests/unit/test_filetree.py tests/e2e/test_faults.py tests/e2e/test_machines.py

differential: setup   # a dockerd of Debian's beside Sampan; SAMPAN_DOCKERD_ROOT=DIR for one in another root (docs/differences.md)
	$(BIN)/python -m tests.differential.run

bench: setup
	$(BIN)/python bench/start.py
	$(BIN)/python bench/logs.py
	$(BIN)/python bench/memory.py
	$(BIN)/python bench/network.py
	$(BIN)/python bench/pull.py
	$(BIN)/python bench/build.py
	$(BIN)/python bench/machines.py

clean:
	rm -rf $(VENV) dist build
