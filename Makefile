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
GPU_MACHINE_PYTHON ?= python3.12
GPU_MACHINE := .venv-gpu-machine

.PHONY: demo test test-tensorrt test-gpu-machine lint gpu-check gpu-gain clean

$(STAMP): setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet "torch==2.13.0" "numpy<2"
	$(BIN)/pip install --quiet -e ".[train,rtx,dev]"
	touch $@

demo: $(STAMP)
	$(BIN)/python benchmarks/demo.py --out $(OUT) $(if $(DATA),--data $(DATA)) $(if $(VERSION),--version $(VERSION))

test: lint
	$(BIN)/pytest

# The plugins in other versions of TensorRT's Python package, with old and new NumPy. With TensorRT's public headers in
# TENSORRT_INCLUDE a C++ program asks the plugins what a builder asks.
test-tensorrt: $(STAMP)
	$(if $(TENSORRT_INCLUDE),UDX_TENSORRT_INCLUDE=$(TENSORRT_INCLUDE)) \
		$(BIN)/python tests/ops/real_tensorrt/matrix.py $(VENV)/tensorrt
# All tests that need no dataset devkit, with the versions that a GPU machine has today: a newer Python, NumPy, torch and
# Triton; udx is not installed there, and neither are nuscenes-devkit, pycuda and TensorRT. Needs Python 3.12 and, once,
# 3 GB of downloads (5 GB on disk): torch 2.11 for CUDA does not load without NVIDIA's libraries, not even on a CPU.
test-gpu-machine: $(GPU_MACHINE)/.installed
	PYTHONPATH= $(GPU_MACHINE)/bin/python -m pytest -n auto --dist loadfile -rs

$(GPU_MACHINE)/.installed: tests/gpu_machine.txt
	$(GPU_MACHINE_PYTHON) -m venv $(GPU_MACHINE)
	$(GPU_MACHINE)/bin/pip install --quiet -r tests/gpu_machine.txt
	touch $@

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(GPU_MACHINE) build *.egg-info

# On a machine with a CUDA device: what works there, every test marked gpu, and the benchmarks that use it, in at most
# nine minutes. Where torch for CUDA is installed already, udx need not be, and the checkout may be read-only:
# make gpu-check GPU_PYTHON=python3 RESULTS=/tmp/results
gpu-check: $(if $(GPU_PYTHON),,$(STAMP))
	$(or $(GPU_PYTHON),$(BIN)/python) benchmarks/gpu_check.py --out $(RESULTS)

# What distillation gains there in a few hundred steps of recipe small; needs nuscenes-devkit. OUT keeps world and runs.
gpu-gain: OUT = runs/small-gain
gpu-gain: $(if $(GPU_PYTHON),,$(STAMP))
	$(or $(GPU_PYTHON),$(BIN)/python) benchmarks/small_gain.py --out $(OUT) --json $(RESULTS)/small_gain_cuda.json
