# make run: install, then the whole chain on the embedded sample. make test: install, lint, all tests.
# Needs Python 3.11 or 3.12 and make; without uv on PATH a pinned uv is put into .venv.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(not (3,11) <= sys.version_info < (3,13))' && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TEST_JOBS ?= 2
# A processor with AVX2 alone, wherever the tests run: oneDNN (torch's, and that in OpenVINO's CPU
# plugin, which heeds both names), torch's own kernels, MKL, NumPy's and SciPy's OpenBLAS. ONNX
# Runtime's kernels (MLAS) know no such limit: they show another processor only on one.
AVX2_ALONE := ONEDNN_MAX_CPU_ISA=AVX2 DNNL_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 \
	MKL_ENABLE_INSTRUCTIONS=AVX2 OPENBLAS_CORETYPE=Haswell
STORE ?= docs/results/measured
BENCH := training_step input onnx stored_logits resized cold_start read_pdparams
COMPUTING := $(addprefix tests/,models weights mining training evaluation deployment)

export DO_NOT_TRACK := true
export KEDRO_DISABLE_TELEMETRY := true
export MLFLOW_DISABLE_TELEMETRY := true
export DVC_NO_ANALYTICS := true

help:  ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

run: install  ## the whole chain on the embedded sample: images, SSLD, export, latency, report
	$(BIN)/kedro run

test: install lint  ## lint and all tests but the slow ones
	$(BIN)/python -m pytest -n $(TEST_JOBS) --no-loadscope-reorder

test-long: install  ## the slow tests too: larger counts, more kills; then test-avx2
	$(BIN)/python -m pytest -m 'not gpu and not tensorrt and not triton and not clients and not airflow and not slurm'
	$(MAKE) test-avx2

test-avx2: install  ## the tests of what computes, as a processor with AVX2 alone would
	$(AVX2_ALONE) $(BIN)/python -m pytest -n $(TEST_JOBS) --no-loadscope-reorder $(COMPUTING)

lint: install  ## ruff, mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(STAMP)  ## the locked packages and this one, in .venv

cpp: install  ## the C++ engine in build/cpp, its tests, and itself against Python
	cmake -S deploy/cpp -B build/cpp -DOpenVINO_DIR="$$($(BIN)/python -c 'import importlib.util as u; print(u.find_spec("openvino").submodule_search_locations[0])')/cmake"
	cmake --build build/cpp -j $(TEST_JOBS)
	ctest --test-dir build/cpp --output-on-failure
	HGNETV2_CPP=build/cpp $(BIN)/python -m pytest -m slow tests/deployment/test_cpp.py

docs: install  ## the documentation as a site, in build/site; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

docs-serve: install  ## the same on http://127.0.0.1:8000, with search
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve --dev-addr 127.0.0.1:8000

notebooks: install  ## run the notebooks in a copy of the project, and keep their outputs
	$(BIN)/python tests/notebook_runs.py

viz: install  ## Kedro-Viz in the browser
	$(BIN)/kedro viz

bench-gpu: install  ## what needs a GPU, in nine minutes; results in data/08_reporting/gpu
	PYTHON=$(BIN)/python benchmarks/gpu.sh data/08_reporting/gpu

bench: install  ## equal work, in turns, on one core: 20 minutes; writes the tables of docs/results
	for b in $(BENCH) select lists; do $(BIN)/python benchmarks/bench_$$b.py --store $(STORE); done
	$(BIN)/python benchmarks/tables.py

bench-quick: install  ## fewer cases and rounds: 3 minutes; into data/08_reporting/benchmarks
	for b in $(BENCH); do $(BIN)/python benchmarks/bench_$$b.py --quick; done

bench-emoji: install  ## teachers of every kind on emoji of two vendors, which npm fetches (136 MB)
	$(BIN)/python benchmarks/bench_emoji_teachers.py

bench-peers: install  ## other programs on clothes and emoji in equal CPU seconds; their environments have 18 GB
	test -d build/sets/clothes/test || $(BIN)/python benchmarks/fashion_set.py build/sets/clothes
	test -d build/sets/emoji/test || $(BIN)/python benchmarks/emoji_set.py build/sets/emoji
	$(BIN)/python benchmarks/bench_peers.py --set build/sets/clothes --side 32 --seconds 125 500
	$(BIN)/python benchmarks/bench_peers.py --set build/sets/emoji --side 64 --seconds 200 750

clean:  ## the environment and caches; data/ stays
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist

lock:  ## compile requirements.lock from requirements.in, and the server image's (needs uv)
	uv pip compile requirements.in --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header -q -o requirements.lock
	uv pip compile deploy/docker/requirements-serve.in -c requirements.lock --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-header --no-annotate -q -o deploy/docker/requirements-serve.txt

$(STAMP): requirements.lock requirements-uv.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed: make PYTHON=/path/to/python"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@if command -v uv >/dev/null; then uv=uv; else \
		$(BIN)/python -m pip install -q --require-hashes -r requirements-uv.txt; uv=$(BIN)/uv; fi; \
	export VIRTUAL_ENV=$(CURDIR)/$(VENV); \
	$$uv pip install -q --compile-bytecode --require-hashes -r requirements.lock; \
	$$uv pip install -q --no-deps --no-build-isolation -e .
	@# DVC asks for a git repository; an unpacked archive has none.
	@test -e .git || for folder in . weights; do (cd $$folder && $(CURDIR)/$(BIN)/dvc config --local core.no_scm true); done
	@touch $@

.PHONY: help run test test-long test-avx2 lint install docs docs-serve notebooks viz bench bench-quick bench-emoji bench-peers bench-gpu clean cpp lock
