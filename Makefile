# Every target does its own set-up: it needs only Python >= 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-full test-torch lint types bench ulp clean setup

setup: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "stagekit needs Python 3.11 or newer; name one with: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

# One BLAS thread: matrices this small gain nothing from a second one.
demo: $(STAMP)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python examples/digits.py

lint: $(STAMP)
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

test: lint types
	$(BIN)/python -m pytest

test-full: lint types
	$(BIN)/python -m pytest --full
	$(BIN)/python -m pytest --numpy

# Neural ops against torch, in an environment of its own: it is large, and no dependency.
test-torch: pyproject.toml
	test -x $(VENV)-torch/bin/python || $(PYTHON) -m venv $(VENV)-torch
	$(VENV)-torch/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' 'torch>=2.9'
	$(VENV)-torch/bin/python -m pytest -s tests/test_torch.py

bench: $(STAMP)
	$(BIN)/python -m benchmarks

# The errors of scalar functions: every float32, so minutes. Writes docs/scalar_math.md.
ulp: $(STAMP)
	PYTHONPATH=. $(BIN)/python tools/ulp.py

clean:
	rm -rf $(VENV) $(VENV)-torch build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find stagekit tests examples benchmarks tools -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
