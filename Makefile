# make demo: from nothing to an exported model and its bench.  make test: the gate.  make test-slow: the other tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-slow clean

demo: $(VENV)/.demo
	$(BIN)/trt-yolo export
	$(BIN)/trt-yolo bench engines/demo.onnx --duration 2

test: $(VENV)/.test
	PATH="$(CURDIR)/$(BIN):$$PATH" tools/check

test-slow: $(VENV)/.test
	PATH="$(CURDIR)/$(BIN):$$PATH" tools/test slow

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(PIP) -e ".[cpu]"
	touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(PIP) -e ".[dev,cpu,rtx]"
	$(PIP) --no-deps --upgrade --target $(VENV)/stubs tensorrt-stubs
	-$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps \
		--dest $(VENV)/pycuda pycuda  # its source: a test holds our calls to it
	touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) engines/*.onnx engines/*.json engines/*.engine engines/*.log engines/*.cache engines/*.jit engines/.*.lock
