# Every target works on a fresh machine: what it needs is made first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# So many files of tests at once; more of them only wait for each other on two cores.
AT_ONCE := 2

.PHONY: run test test-fast test-slow chaos bench check format clean

run: $(VENV)/installed ## Serve the app on http://localhost:7860
	$(BIN)/python app.py

test: $(VENV)/installed-dev ## All tests: real runs and a real browser
	$(BIN)/python -m pytest -m "not gpu and not slow" -n $(AT_ONCE) --dist loadfile --no-loadscope-reorder

test-fast: $(VENV)/installed-dev ## Tests that train nothing and need no browser, under 90 seconds
	$(BIN)/python -m pytest -m "not gpu and not train and not browser"

test-slow: $(VENV)/installed-dev ## Tests that take minutes each: a file of 200 MB
	$(BIN)/python -m pytest -m slow

chaos: $(VENV)/installed-dev ## 200 random cases of what can happen to processes and files, an hour; ARGS for others
	PYTHONPATH=.:tests $(BIN)/python -m chaos $(ARGS)

bench: $(VENV)/installed ## Our trainer beside a plain TRL script, a quarter of an hour
	$(BIN)/python benchmarks/loss_and_memory.py

check: $(VENV)/installed-dev ## Format, lint, types, then all tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MAKE) test

format: $(VENV)/installed-dev ## Put the code into shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## Remove the virtual environment and caches; runs and models stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: requirements.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@
