# make demo   the whole road on photographs, in a new environment: demo/report.html
# make test   linters, types, manual and every test
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
CRAWL  ?=
DEMO   ?= demo

.PHONY: demo test lint docs clean

# The demo installs what a user needs, the tests what a developer needs. Everything is pinned by constraints.txt.
$(VENV)/.demo: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt 'pip>=25'
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt 'pip>=25'
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(VENV)/.demo $@

demo: $(VENV)/.demo
	PATH="$(abspath $(BIN)):$$PATH" CRAWL="$(CRAWL)" DEMO="$(DEMO)" sh examples/demo.sh

lint: $(VENV)/.dev
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/mypy
	$(BIN)/edit man --check man --readme README.md

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests

docs: $(VENV)/.dev
	$(BIN)/edit man --write man --readme README.md

clean:
	rm -rf $(DEMO)
