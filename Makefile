# Every target works alone on a machine with python3 (3.10 or newer, with venv), g++ (12 or newer) and make.
#   make demo       train a small language model on real text, beside PyTorch's own attention
#   make test       the tests that finish within minutes
#   make test-all   the slow tests too
#   make lint       ruff, mypy, clang-format         make format   apply what can be applied
#   make bench      the figures, some minutes        make build    compile, install into .venv
#   make cuda       the GPU's kernels, by nvcc; no GPU is needed
#   make cuda-report   what nvcc made of them          make gpu   tests and figures on a GPU
#   make clean      remove what was built; .venv stays
# PYTHON names the interpreter that .venv is made from; PIP_ARGS goes to pip (an index with CPU-only builds of torch, say).

PYTHON ?= python3
PIP_ARGS ?=
PY := .venv/bin/python
PIP := $(PY) -m pip install --disable-pip-version-check --quiet -c constraints.txt $(PIP_ARGS)
RESULTS := benchmarks/results
CUDA_REPORT ?= $(RESULTS)/cuda_static.md
CPP = $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

export SEO_KERNELS_REQUIRE_NATIVE := 1
PYTEST := $(PY) -m pytest --numprocesses auto --dist worksteal
# glibc fills fresh memory with 0xFE bytes (-1.7e38 as a float): what reads it uninitialised is found
test test-all: export MALLOC_PERTURB_ := 1
# the tests share the cores: threads that wait leave them
test test-all: export OMP_WAIT_POLICY := passive
# the GPU's kernels, run by the host under sanitizers
test test-all: export SEO_KERNELS_HOST_KERNELS := 1

.PHONY: demo test test-all lint format bench build cuda cuda-report gpu clean

demo: build
	$(PY) -m seo_kernels demo

test: build
	$(PYTEST)

test-all: build
	$(PYTEST) -m "slow or not slow"

bench: build
	@mkdir -p $(RESULTS)
	to=$(RESULTS)/$$($(PY) -c 'from seo_kernels.benchmark.report import machine_name; print(machine_name())') && \
	$(PY) -m seo_kernels bench --csv $$to.csv --json $$to.json --picture $$to.png

lint: .venv/.installed
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy seo_kernels python
	.venv/bin/clang-format --dry-run -Werror $(CPP)

format: .venv/.installed
	$(PY) -m ruff check --fix --exit-zero
	$(PY) -m ruff format
	.venv/bin/clang-format -i $(CPP)

cuda: .venv/.installed
	$(PIP) --no-deps nvidia-cutlass
	$(PY) csrc/cuda/build.py

cuda-report: cuda
	$(PIP) nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm
	$(PY) benchmarks/cuda_static.py --output $(CUDA_REPORT)

gpu: build cuda
	$(PY) -m seo_kernels.gpu

# ninja compiles what changed
build: .venv/.installed
	$(PY) setup.py --quiet build_ext --inplace

# what the build itself needs
.venv/.requirements: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "seo_kernels needs Python 3.10 or newer; name one: make PYTHON=python3.12")'
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PIP) torch numpy setuptools ninja
	touch $@

# compiled first, where its messages are seen; pip then finds everything built
.venv/.installed: .venv/.requirements pyproject.toml setup.py
	$(PY) setup.py --quiet build_ext --inplace
	$(PIP) --no-build-isolation --editable '.[dev,plots,html,classify,train,diagnostics]'
	touch $@

clean:
	rm -rf build dist *.egg-info python/*.egg-info seo_kernels/lib seo_kernels/_C*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks .venv/.installed
