# make demo      install, then quantise, prove and time the embedded model: runs/demo/report.html
# make test      install with the development extras, run the quick tests   (make test-all: the slow ones too)
# make lint      ruff, and mypy on the installed package
#
# TORCH_INDEX    a package index with CPU builds of torch, searched beside your default one. Without it Linux machines
#                get torch's CUDA build, which works but is some gigabytes larger.
# PYTHON         the interpreter that makes .venv, 3.11 or newer.

PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -c constraints.txt
TYPED := $(VENV)/typed

.PHONY: demo test test-all lint clean

demo: $(VENV)/installed
	$(BIN)/ptq-export --ckpt embedded:digits --target ort-int8 --out runs/demo

test: $(VENV)/dev
	$(BIN)/python -m pytest -m "not slow"

test-all: $(VENV)/dev
	$(BIN)/python -m pytest

# The folder ptq_export/ shadows an installed package in the repository root, and an editable install maps folders in a
# way that mypy does not follow: so it checks a copy, installed as a user would have it, from inside that copy's folder.
lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build $(TYPED)
	$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation --target $(TYPED) .
	rm -rf build
	cd $(TYPED) && $(BIN)/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache -p ptq_export

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache

$(VENV)/torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	touch $@

$(VENV)/installed: $(VENV)/torch pyproject.toml
	$(PIP) -e .
	touch $@

$(VENV)/dev: $(VENV)/installed
	$(PIP) -e '.[dev]'
	touch $@
