# make demo   the whole chain on real input, in a fresh virtual environment
# make test   all tests, in that environment
# Needs Python 3.10 or newer, a C++ compiler and a package index.

PYTHON ?= python3
VENV ?= .venv
DEMO_ARGS ?=

BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check
CXX_FILES = $(wildcard $(foreach folder,. testing fuzz,runtime/native/$(folder)/*.cpp runtime/native/$(folder)/*.h)) runtime/native/examples/encode_raw.c
NATIVE = $(wildcard runtime/native/*.cpp runtime/native/*.h) runtime/native/CMakeLists.txt

.PHONY: install demo test lint format clean

install: $(VENV)/.library

$(VENV)/.packages: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("edgejpeg needs Python 3.10 or newer; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c constraints.txt torch
	$(PIP) install -q -c constraints.txt scikit-build-core cmake ninja setuptools
	$(PIP) install -q -c constraints.txt --no-build-isolation -e '.[all]'
	touch $@

# The library is compiled anew when its sources change.
$(VENV)/.library: $(VENV)/.packages $(NATIVE)
	$(PIP) install -q --no-build-isolation --no-deps -e .
	touch $@

demo: install
	$(BIN)/edgejpeg demo -o demo-out $(DEMO_ARGS)

test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile -q $(TEST_ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)
	rm -rf build/typed && mkdir -p build/typed
	$(PIP) install -q --no-build-isolation --no-deps --target build/typed .
	cd build/typed && MYPYPATH=. $(abspath $(BIN))/mypy --config-file $(abspath pyproject.toml) -p edgejpeg

format: install
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

clean:
	rm -rf build demo-out $(VENV)
