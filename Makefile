# make demo   the whole road on photographs, in a new environment: demo/report.html
# make test   linters, types, manual and every test
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
CRAWL  ?=
DEMO   ?= demo

.PHONY: demo test lint docs clean

$(BIN)/edit: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(BIN)/edit
	PATH="$(abspath $(BIN)):$$PATH" CRAWL="$(CRAWL)" DEMO="$(DEMO)" sh examples/demo.sh

lint: $(BIN)/edit
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/mypy
	$(BIN)/edit man --check man --readme README.md

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile tests

docs: $(BIN)/edit
	$(BIN)/edit man --write man --readme README.md

clean:
	rm -rf $(DEMO)
