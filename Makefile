# `make test` on a fresh machine needs Python >= 3.11 and make, nothing else: the environment is made in .venv.
PYTHON ?= python3
# torch comes first and by itself, so that a smaller build can be chosen: TORCH="torch==2.13.0 --index-url …"
TORCH  ?= torch==2.13.0
VENV   ?= .venv
PYTEST_ARGS ?=

BIN   := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup check format test test-all bench kernels bench-peers bench-plots bench-compare gpu-check gpu-check-data triton-server wheel clean

setup: $(READY)

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q $(TORCH)
	$(BIN)/python -m pip install -q -e '.[dev,export]'
	-$(BIN)/python -m trt_vqgan.runtime.native.build
	touch $@

# Formatting, lint, types, import rules.
check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	find kernels runtime/include examples tests -name '*.cu' -o -name '*.cuh' -o -name '*.cpp' -o -name '*.hpp' -o -name '*.h' | xargs -r $(BIN)/clang-format --dry-run --Werror

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	find kernels runtime/include examples tests -name '*.cu' -o -name '*.cuh' -o -name '*.cpp' -o -name '*.hpp' -o -name '*.h' | xargs -r $(BIN)/clang-format -i

# At most ten minutes on two cores; what CI runs. Files are dealt to two processes: many tests compile or run one thread.
test: $(READY)
	$(BIN)/python -m pytest -m 'not slow' -n 2 --dist loadfile $(PYTEST_ARGS)

# Adds big models, long fuzzing and soaks.
test-all: $(READY)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# About an hour on two cores; BENCH_WHAT chooses parts. The numbers mean something on a machine that does nothing else.
BENCH_WHAT ?= encode,decode,prefill,step,sampler,generate,window
BENCH_BATCHES ?= 1,2,4,8,16,32
BENCHMARKS := docs/benchmarks
bench: $(READY)
	mkdir -p $(BENCHMARKS)
	$(BIN)/trt-vqgan bench --shape 12x768 --shape 24x1024 --what $(BENCH_WHAT) --batch $(BENCH_BATCHES) --json $(BENCHMARKS)/cpu.json
	$(BIN)/python -m trt_vqgan.benchmarks.growth --json $(BENCHMARKS)/growth.json
	$(BIN)/python -m trt_vqgan.benchmarks.decode_sizes --json $(BENCHMARKS)/sizes.json
	$(MAKE) bench-plots

# Other runtimes beside ours at the same shape and weights, on a machine that does nothing else; those that can't be
# installed are left out and said to be.
PEERS ?= ctranslate2 gguf llama-cpp-python nncf onnxruntime-genai openvino
bench-peers: $(READY)
	-for package in $(PEERS); do $(BIN)/python -m pip install -q $$package; done
	mkdir -p $(BENCHMARKS)
	$(BIN)/python -m trt_vqgan.benchmarks.peers --json $(BENCHMARKS)/peers.json
	$(BIN)/python -m trt_vqgan.benchmarks.peers.page $(BENCHMARKS)/peers.json $(BENCHMARKS)/peers.md
	for tokens in 256 512; do \
	  name=$(BENCHMARKS)/peers-prefill-$$tokens; \
	  $(BIN)/python -m trt_vqgan.benchmarks.peers --prefill $$tokens --json $$name.json || exit 1; \
	  $(BIN)/python -m trt_vqgan.benchmarks.peers.page $$name.json $$name.md || exit 1; \
	done

# Pages and plots of the reports that are there.
bench-plots: $(READY)
	$(BIN)/python -m trt_vqgan.benchmarks.markdown $(BENCHMARKS)/cpu.json $(BENCHMARKS)/cpu.md
	$(BIN)/python -m trt_vqgan.benchmarks.plots $(wildcard $(addprefix $(BENCHMARKS)/,cpu.json growth.json sizes.json)) -o $(BENCHMARKS)/plots

# make bench-compare A=before.json B=after.json: ratios of two runs with their spread; BENCH_COMPARE_ARGS=--fail.
bench-compare: $(READY)
	@$(BIN)/python -m trt_vqgan.benchmarks.compare $(A) $(B) $(BENCH_COMPARE_ARGS)

# Compiles the CUDA kernels for every architecture into the cache folder, so that no first use waits for it; needs nvcc,
# no GPU.
kernels: $(READY)
	$(BIN)/python -c 'from trt_vqgan.cache_folder import cache_folder; from trt_vqgan.kernels.building import build_kernels; print(build_kernels(cache_folder()).compiler, cache_folder())'

# Checks and times the GPU path in less than ten minutes (docs/gpu.md); says so where there is no GPU. Needs no network:
# the system's Python with torch, nvcc, and pycuda from GPU_WHEELS. Run gpu-check-data before, where torch and onnx are.
GPU_PYTHON ?= python3
GPU_WHEELS ?= ../shared/wheels-cp312
GPU_PACKAGES := build/gpu-python
GPU_CHECK_ARGS ?=
gpu-check:
	@if ! $(GPU_PYTHON) -m trt_vqgan.benchmarks.gpu_check.probe; then \
	  echo "gpu-check: nothing was checked, the GPU paths need a GPU"; \
	else \
	  export PYTHONPATH=$(GPU_PACKAGES); \
	  $(GPU_PYTHON) -c 'import importlib.util as i, sys; sys.exit(i.find_spec("pycuda") is None)' || \
	    $(GPU_PYTHON) -m pip install -q --no-index --no-deps --find-links $(GPU_WHEELS) --target $(GPU_PACKAGES) \
	      pycuda mako pytools platformdirs siphash24 || exit 1; \
	  $(GPU_PYTHON) -m trt_vqgan.benchmarks.gpu_check $(GPU_CHECK_ARGS); \
	fi

# The golden models' weights, for gpu-check on a machine that can't export.
gpu-check-data: $(READY)
	$(BIN)/python -m trt_vqgan.benchmarks.gpu_check --prepare build/gpu-check

# A Triton server with its Python backend, out of the package nvidia-pytriton (55 MB), and an environment for that
# backend, which was built for NumPy 1. tests/runtime/triton then asks it.
triton-server: $(READY)
	$(BIN)/python -m pip download -q --no-deps --only-binary :all: -d build/triton-wheel nvidia-pytriton==0.7.0
	$(BIN)/python -m zipfile -e build/triton-wheel/nvidia_pytriton-*.whl build/triton-server
	$(BIN)/python -m pip install -q --upgrade --target build/triton-python 'numpy<2' click onnxruntime Pillow tqdm

wheel: $(READY)
	$(BIN)/python -m pip wheel -q --no-deps -w dist .
	ls -l dist

clean:
	rm -rf build dist $(VENV)
