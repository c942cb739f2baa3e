# make demo   the whole road on photographs, in a new environment: demo/report.html
# make demo-models   objects found, painted over and checked, by networks out of wheels: demo-models/dataset.html
# make test   linters, types, manual and every test
# make test-fast   the same without what starts fleets of processes
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
CRAWL  ?=
DEMO   ?= demo

.PHONY: demo demo-models test test-fast lint docs clean

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

# Its extras are those of the offline detectors, of OCR and of videos.
demo-models: $(VENV)/.demo
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,ocr,video,vision]'
	PATH="$(abspath $(BIN)):$$PATH" DEMO="$(DEMO)-models" sh examples/models.sh

lint: $(VENV)/.dev
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/ruff format --check --quiet src tests benchmarks examples
	$(BIN)/mypy
	$(BIN)/edit man --check man --readme README.md

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests

# What needs no fleet of processes: minutes, not a quarter of an hour.
test-fast: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not fleet" tests

docs: $(VENV)/.dev
	$(BIN)/edit man --write man --readme README.md

clean:
	rm -rf $(DEMO) $(DEMO)-models
