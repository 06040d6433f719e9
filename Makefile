# `make demo` shows what this is, `make test` checks it; `make` alone lists the rest.
#
#   PYTHON       interpreter that the environment is made with (python3, 3.10 or newer)
#   VENV         folder of the environment (.venv); one that exists is used as it is
#   OUT          folder of the demo's results (out)
#   GPU_PYTHON   for make gpu: an interpreter with torch for CUDA, triton, pybind11, cmake, ninja,
#                diffusers, peft, typer, jinja2 and the dev packages (python3); nothing is downloaded
#   GPU_OUT      folder of what make gpu says, a log for each part (build/gpu)
#   GPU_ROWS     the file of rows of make gpu (benchmarks/results/gpu.json; gpu-first: GPU_OUT/gpu.json)
#   GPU_MINUTES  the most for the benchmarks of make gpu, without its tests (4.5: 9 minutes in all)
#   ZOO_DATA     for make zoo-gpu: the folder of pictures, rendered where npm is (runs/pictures)
#   ZOO_OUT      folder of make zoo-gpu, with which the next call goes on (runs/miniature-gpu)
#   ZOO_OPTIONS  more of its options, such as --batch-size 512 --unet-steps 40000
#   COMMIT       of the code, for the rows of make gpu where this is no git checkout
#   CONSTRAINTS  exact versions that the environment is made with (constraints.txt)
#   TORCH_INDEX  package index that torch comes from (pip's own). On Linux the usual torch carries CUDA,
#                several GB. Without an NVIDIA GPU this is a tenth of it:
#                    make demo TORCH_INDEX=<the address that PyTorch's install page gives for CPU>

PYTHON ?= python3
VENV ?= .venv
OUT ?= out
GPU_PYTHON ?= python3
GPU_OUT ?= build/gpu
GPU_ROWS ?=
GPU_MINUTES ?= 4.5
ZOO_DATA ?= runs/pictures
ZOO_OUT ?= runs/miniature-gpu
ZOO_OPTIONS ?=
CONSTRAINTS ?= constraints.txt
TORCH_INDEX ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-older coverage lint types docs aot versions gpu gpu-first gpu-smoke zoo zoo-miniature zoo-icons zoo-gpu quality bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## draw prompts with and without Dot, on a miniature Stable Diffusion, and write a report to OUT
	$(BIN)/morse-engine demo --out $(OUT)

PYTEST = $(BIN)/python -m pytest -n auto --dist worksteal

test: $(VENV)/.dev ## run the tests on all cores; those that need a GPU are skipped where there is none
	$(PYTEST)

test-older: build/older.txt ## run them with torch 2.11 and what goes with it, in an environment of their own
	@$(MAKE) test VENV=build/older CONSTRAINTS=$<

# Triton is that of this torch; the hub is the last that this transformers takes.
build/older.txt: constraints.txt Makefile
	@mkdir -p $(@D)
	@grep -vE '^(torch|transformers|huggingface_hub)==' $< >$@
	@printf '%s\n' torch==2.11.0 triton==3.6.0 transformers==5.17.0 huggingface_hub==1.33.0 >>$@

test-fast: $(VENV)/.dev ## run the tests that are not marked slow, under a minute on two cores
	$(PYTEST) -m "not slow"

coverage: $(VENV)/.dev ## run the tests and count the lines that they reach
	$(PYTEST) --cov --cov-report=term:skip-covered

lint: types ## check style, formatting and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.dev build/package # check types alone
	cd build/package && $(abspath $(BIN))/mypy --config-file $(CURDIR)/pyproject.toml \
		--cache-dir $(CURDIR)/.mypy_cache -p morse_engine

docs: $(VENV)/.dev build/package build/docs ## build the documentation site into build/site; a broken link fails
	@PATH="$(abspath $(BIN)):$$PATH" NO_MKDOCS_2_WARNING=1 mkdocs build --quiet --strict
	@echo "==> build/site/index.html"

aot: $(VENV)/.dev ## compile every kernel for all architectures, without a GPU; a spill fails
	$(BIN)/python -m morse_engine.kernels.aot

versions: $(VENV)/.dev ## test and compile the kernels with older Tritons and NumPys
	tests/versions.sh $(abspath $(BIN))/python

# Folders of links: the package as it is when it is installed, and the documents where they link to each other.
.PHONY: build/package build/docs
build/package:
	@rm -rf $@ && mkdir -p $@/morse_engine
	@ln -s $(filter-out %/kernels %/csrc,$(wildcard $(CURDIR)/morse_engine/*)) $(CURDIR)/kernels $@/morse_engine

build/docs:
	@rm -rf $@ && mkdir -p $@
	@ln -s $(addprefix $(CURDIR)/,$(wildcard *.md) LICENSE docs examples) $@
	@mkdir $@/benchmarks && ln -s $(CURDIR)/benchmarks/README.md $@/benchmarks

# Each part has a log and a limit of its own; none stops the next. docs/gpu.md says what they settle.
GPU_PARTS = $(GPU_PYTHON) benchmarks/first.py $(1) --out $(GPU_OUT) --minutes $(GPU_MINUTES) \
	$(if $(GPU_ROWS),--rows $(GPU_ROWS)) $(if $(COMMIT),--commit $(COMMIT))

gpu-first: ## the first ten minutes on a GPU: what is least certain, part by part, a table at the end
	@$(call GPU_PARTS,first)

gpu: ## tests and benchmarks on a GPU, 9 minutes, with the packages that GPU_PYTHON has
	@$(call GPU_PARTS,gpu)

gpu-smoke: ## the riskiest facts on a GPU: the one-launch loop, captured steps, kernels; 3 minutes
	@$(call GPU_PARTS,smoke)

zoo: $(VENV)/.demo ## train the bundled digits models again, from nothing, into runs/zoo
	$(BIN)/python -m morse_engine.zoo.train --out runs/zoo

zoo-miniature: $(VENV)/.demo ## train the miniature Stable Diffusion from nothing, its Dot and its judge; needs npm
	@$(PIP) install -c $(CONSTRAINTS) -e '.[demo,miniature]'
	for part in train dot judge; do \
		$(BIN)/python -m morse_engine.zoo.miniature.$$part --out runs/miniature || exit; \
	done

zoo-icons: $(VENV)/.demo ## train the icons' model of classes from nothing, and its Dot; needs npm
	@$(PIP) install -c $(CONSTRAINTS) -e '.[demo,miniature]'
	for part in dash dot; do $(BIN)/python -m morse_engine.zoo.icons.$$part --out runs/icons || exit; done

# Batch and rate are guesses: nothing of this has run on a GPU.
zoo-gpu: ## train the bundled miniature on, on a GPU, 9 minutes a call, without network (docs/gpu.md)
	$(GPU_PYTHON) -m morse_engine.zoo.miniature.train --out $(ZOO_OUT) --data $(ZOO_DATA) \
		--start morse_engine/zoo/weights/miniature --device cuda --bf16 --minutes 8.5 \
		--batch-size 256 --lr 2e-3 --unet-steps 20000 $(ZOO_OPTIONS)

quality: $(VENV)/.demo ## measure image quality against fewer steps of the same sampler
	$(BIN)/python benchmarks/quality.py

bench: $(VENV)/.dev ## measure latency
	$(BIN)/pytest benchmarks --benchmark-only

clean: ## remove what was installed and generated; runs/ (training) stays
	rm -rf .venv $(OUT) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .coverage .benchmarks
	find morse_engine tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# The environment, in three stages. Each leaves a stamp, so that it runs once, and again when one of
# the files that it is made from changes.

$(VENV)/.made:
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		command -v $(PYTHON) >/dev/null || { \
			echo "$(PYTHON) not found: install Python 3.10 or newer, or name it: make PYTHON=..." >&2; \
			exit 1; }; \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
			echo "$(PYTHON) is $$($(PYTHON) --version 2>&1), Python 3.10 or newer is needed;" \
				"name another one: make PYTHON=python3.12" >&2; \
			exit 1; }; \
		$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
			echo "$(PYTHON) cannot make environments (no venv or ensurepip);" \
				"on Debian and Ubuntu: sudo apt install python3-venv" >&2; \
			exit 1; }; \
		echo "==> environment in $(VENV), $$($(PYTHON) --version)"; \
		$(PYTHON) -m venv $(VENV); \
	fi
	@touch $@

$(VENV)/.torch: $(VENV)/.made $(CONSTRAINTS)
	@echo "==> torch (the largest download, this takes a while)"
	@$(PIP) install -c $(CONSTRAINTS) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	@touch $@

NATIVE := setup.py CMakeLists.txt $(wildcard csrc/*.cpp csrc/*.h csrc/include/*/*.h)

$(VENV)/.demo $(VENV)/.dev: $(VENV)/.%: $(VENV)/.torch pyproject.toml $(CONSTRAINTS) $(NATIVE)
	@echo "==> morse-engine[$*] and what it needs"
	@$(PIP) install -c $(CONSTRAINTS) -e '.[$*]'
	@touch $@
