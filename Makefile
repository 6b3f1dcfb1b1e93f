# Each target sets up what it needs: a virtual environment in .venv, and the emoji font of the system.

SHELL := /bin/bash
PYTHON := .venv/bin/python

# Threads beyond eight slow models of this size down.
export OMP_NUM_THREADS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n < 8 ? n : 8)))
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test test-ray lint unit setup clean

demo: setup  ## learn a subject for a prompt on the embedded base, and draw it: minutes on a CPU
	.venv/bin/palp-hyper demo --out runs/demo
	@ls runs/demo/*.png

test: setup  ## lint and types beside the tests, one of which goes from corpus to hypernetwork in small
	@$(MAKE) --no-print-directory --jobs 2 lint unit

unit: setup  ## the tests alone
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -q -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

test-ray: setup  ## the tests that need the extra "ray", which is installed for them
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-build-isolation -e .[ray]
	$(PYTHON) -m pytest -q tests/test_corpus_builders.py tests/test_ray_app.py

lint: setup
	$(PYTHON) -m ruff check --quiet
	$(PYTHON) -m mypy

setup:
	@scripts/setup.sh

clean:  ## also removes the results in runs/
	rm -rf .venv runs/*/ build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
