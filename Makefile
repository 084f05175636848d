# make demo: the quickstart and its report.  make test: lint, types, layers, tests.  Both set up what is missing.
# make screenshots: the pictures of the demo in docs.  It needs Chromium.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FEDSIM := $(BIN)/fedsim
QUICKSTART := results/00_quickstart/report.html
PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal

.PHONY: demo screenshots test test-all lint clean

demo: $(QUICKSTART)
	@echo "The report: $(QUICKSTART)"
	@echo "Open it in a browser (xdg-open on Linux, open on macOS); it needs no network. A sweep has one too: docs/sweeps.md"
	@echo "A page of sliders for teaching, about 2 minutes: $(FEDSIM) demo --out demo.html"
	@echo "A page to draw on: $(FEDSIM) demo --live"

screenshots: $(VENV)/.installed-dev
	@mkdir -p results
	@$(FEDSIM) demo --out results/demo.html
	@PYTHONPATH=. $(BIN)/python docs/screenshots.py results/demo.html

$(QUICKSTART): $(VENV)/.installed scenarios/00_quickstart.toml
	@$(FEDSIM) run scenarios/00_quickstart.toml --overwrite

test: lint
	@$(PYTEST) -m "not slow"

test-all: lint
	@$(PYTEST)

lint: $(VENV)/.installed-dev
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/pyright --pythonpath $(BIN)/python
	@$(BIN)/lint-imports > $(VENV)/layers.log || (cat $(VENV)/layers.log; exit 1)

# foolbox is installed for its sample images alone, gensim for its news reports, without the packages they import.
$(VENV)/.installed: pyproject.toml
	@echo "Installing into $(VENV), some minutes the first time ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[data]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps 'foolbox==3.3.4' 'gensim==4.4.0'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing the tools of the test command ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) results
