# `make check` is what CI runs: .ci/run calls `make lint types` and then the test command of the README.
PYTHON ?= python

.DEFAULT_GOAL := help
.PHONY: help install format lint types test docs research check clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install:  ## install the package and the development tools into the active environment
	$(PYTHON) -m pip install -e ".[dev]"

format:  ## sort imports, mend what ruff can, format
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

lint:  ## ruff: rules and format, nothing is changed
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types:  ## pyright on the pure files
	$(PYTHON) -m pyright --pythonpath "$$($(PYTHON) -c 'import sys; print(sys.executable)')"

test:  ## the default tests: CPU, offline
	$(PYTHON) -m pytest

docs:  ## the site in build/site, strictly: a broken link is an error; needs pip install -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict --quiet

research:  ## the laboratory's own tests, which `make check` leaves out
	$(PYTHON) -m pytest research/tests

check: lint types test  ## everything that CI runs

clean:  ## remove builds and caches; experiments/ and results/ stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
	find gdpo_sr scripts benchmarks research tests -name __pycache__ -type d -prune -exec rm -rf {} +
