# make demo      install, then quantise, prove and time the embedded model: runs/demo/report.html
# make test      install with the development extras, run the quick tests   (make test-all: the slow ones too)
# make test-avx2 the tests in TESTS on an emulated processor without VNNI (needs qemu-user; see CONTRIBUTING.md)
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

TESTS ?= tests/engines/test_saturation.py
AVX2 := $(CURDIR)/$(VENV)/avx2
# A process per core, each with one thread; a file's tests stay together and share what they have made. The files are
# handed out in the order of tests/conftest.py.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder \
  --durations=10

.PHONY: demo test test-all test-avx2 lint clean

demo: $(VENV)/installed
	$(BIN)/ptq-export --ckpt embedded:digits --target ort-int8 --out runs/demo

test: $(VENV)/dev
	$(PYTEST) -m "not slow"

test-all: $(VENV)/dev
	$(PYTEST)

# QEMU's own processor has AVX2 and nothing newer; below -L lies what a program finds instead of this machine's files.
test-avx2: $(VENV)/dev
	mkdir -p $(AVX2)/proc
	sed -E 's/ (avx512|avx_vnni|amx_)[^ ]*//g' /proc/cpuinfo > $(AVX2)/proc/cpuinfo
	OMP_NUM_THREADS=1 qemu-x86_64 -L $(AVX2) -cpu max $(BIN)/python -m pytest -m "not slow" -o timeout=0 $(TESTS)

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
