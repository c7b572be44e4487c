# make demo    evaluate two toy models from nothing, show the board
# make test    every test that can run here
# make data-check    what the bundled prompt set must hold to, measured
SHELL := /bin/bash
BIN := .venv/bin

# With more threads than free cores, small models spend their time waiting on each other.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE
export GRADIO_ANALYTICS_ENABLED := False
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: demo models app test check data-check bench requirements pin clean

demo: models
	$(BIN)/eco-eval demo

# The judge and the toys learn side by side, one core each. Keeping freed memory instead of returning it after every
# step makes a step of the toys about a quarter shorter.
models: export MALLOC_MMAP_THRESHOLD_ := 4294967296
models: export MALLOC_TRIM_THRESHOLD_ := 4294967296
models: .venv/ready
	@$(BIN)/eco-train toy & toys=$$!; $(BIN)/eco-train judge && wait $$toys

app: .venv/ready
	$(BIN)/eco-eval app

test: .venv/ready
	$(BIN)/python -m pytest

check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

data-check: .venv/ready
	$(BIN)/eco-eval data check eco-es-v1

bench: .venv/ready
	$(BIN)/python benchmarks/overhead.py

# Pinned files for Spaces, resolved together so that both agree.
requirements: .venv/ready
	.ci/requirements

pin: .venv/ready
	$(BIN)/eco-eval pin

.venv/ready: pyproject.toml requirements.txt .ci/install .ci/cpu-overrides.txt
	.ci/install
	@touch $@

clean:
	rm -rf .venv .bootstrap .cache
