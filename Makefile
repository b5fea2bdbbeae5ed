# `make demo` and `make test` are all a newcomer needs; both build .venv on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DATA ?=
VERSION ?=
OUT ?= runs/demo
GPU_PYTHON ?=
RESULTS ?= benchmarks/results

.PHONY: demo test lint gpu-check clean

$(STAMP): setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet "torch==2.13.0" "numpy<2"
	$(BIN)/pip install --quiet -e ".[train,rtx,dev]"
	touch $@

demo: $(STAMP)
	$(BIN)/python benchmarks/demo.py --out $(OUT) $(if $(DATA),--data $(DATA)) $(if $(VERSION),--version $(VERSION))

test: lint
	$(BIN)/pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build *.egg-info

# On a machine with a CUDA device: what works there, every test marked gpu, and the benchmarks that use it, in at most
# nine minutes; then what distillation gains in a few hundred steps of recipe small. Where torch for CUDA is installed
# already: make gpu-check GPU_PYTHON=python3
gpu-check: $(if $(GPU_PYTHON),,$(STAMP))
	$(or $(GPU_PYTHON),$(BIN)/python) benchmarks/gpu_check.py --out $(RESULTS)
	$(or $(GPU_PYTHON),$(BIN)/python) benchmarks/small_gain.py --json $(RESULTS)/small_gain_cuda.json
