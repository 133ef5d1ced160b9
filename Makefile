# Everything a fresh machine needs: `make sweep` and `make test` set up .venv on first use.
# TORCH_INDEX=<url> chooses another PyTorch build (CPU only, another CUDA); PYTHON=<path> another interpreter.

VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SUPPORTED := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,$(if $(shell $(p) -c '$(SUPPORTED)' 2>/dev/null && echo ok),$(p))))

.PHONY: sweep test lint setup clean

sweep: $(READY)
	$(BIN)/ming-eval sweep --concurrency 1..32

test: $(READY)
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 with venv is needed; install one or set PYTHON=<path>" >&2; exit 1; }
	@echo "setting up $(VENV), once: PyTorch and its kind take some minutes to come" >&2
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --editable '.[engine,dev]'
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
