# Everything from a fresh clone with only make and Python 3.11 to 3.13. Another interpreter:
#     make demo PYTHON=python3.12
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo race test bench lab notebooks site teacher test-notebooks test-browser figures lint format types check-python clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' Makefile

demo: install  ## collect data, train, evaluate; prints the table and the figures' paths
	$(BIN)/ipd-lite demo

test: install  ## the whole test suite, a file per core (at most four) at a time
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n logical --maxprocesses 4 --dist loadfile

bench: install  ## the benchmarks, with one readable table at the end
	@$(BIN)/python -m pytest -q tests/benchmarks --benchmark-enable --benchmark-only --benchmark-quiet

lab: install  ## JupyterLab, showing the notebooks
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/notebooks

notebooks: install  ## execute all notebooks in order (preset lesson) and save their outputs
	IPD_PRESET=lesson $(BIN)/jupyter nbconvert --to notebook --execute --inplace \
	--ExecutePreprocessor.store_widget_state=False --ExecutePreprocessor.record_timing=False \
	notebooks/[0-9]*.ipynb
	$(BIN)/jupyter nbconvert --to notebook --inplace --CoalesceStreamsPreprocessor.enabled=True \
	notebooks/[0-9]*.ipynb

test-notebooks: install  ## run every notebook under preset smoke, compare the marked cells
	@IPD_PRESET=smoke OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n logical --maxprocesses 4 \
	--dist loadfile --nbval-lax --nbval-current-env --nbval-cell-timeout=600 notebooks

test-browser: install  ## run every notebook in a real JupyterLab (needs Chromium), move its widget
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[browser]" -c constraints.txt
	@IPD_PRESET=smoke IPD_BROWSER=1 $(BIN)/python -m pytest -q tests/test_browser.py

site: install  ## the course as web pages, from the saved outputs: build/site/index.html
	@$(BIN)/python -m tools.site

teacher: install  ## solutions, slides and a rubric for teachers: build/teacher
	@$(BIN)/python -m tools.teacher

race: install  ## the race of notebook 00 from its committed checkpoint: figures/race.gif and race.png
	$(BIN)/python -m ipd_lite.course.race

figures: install  ## draw every figure again from the saved results
	$(BIN)/ipd-lite figures

lint: install  ## ruff's checks and formatting (make format repairs)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install  ## let ruff repair what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: install  ## mypy, strict
	$(BIN)/mypy

install: $(INSTALLED)  ## .venv with the tested versions; again only when they change

$(INSTALLED): pyproject.toml constraints.txt
	@$(MAKE) --no-print-directory check-python
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (some minutes the first time) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]" -c constraints.txt
	@touch $@

check-python:
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; v = sys.version_info; \
	ok = (3, 11) <= v[:2] <= (3, 13); \
	ok or sys.exit("ipd-lite needs Python 3.11 to 3.13, but $(PYTHON) is " + sys.version.split()[0] \
	+ ". Name another one: make PYTHON=python3.12 ...")'

clean:  ## remove the environment and caches (data and runs stay)
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .benchmarks build *.egg-info
