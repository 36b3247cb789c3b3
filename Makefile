# Two commands do everything on a machine that has Python 3.11, git and make: `make repro` and `make test`.
PYTHON := $(or $(shell command -v python3.11),python3)
BIN := $(CURDIR)/.venv/bin
export PATH := $(BIN):$(PATH)
INSTALLED := .venv/.installed

# Tests that start no processes of their own: they run side by side, a core each.
ON_ONE_CORE := $(addprefix tests/,contract docs golden parity repro_models)

.PHONY: repro test lint ui bench clean

repro: $(INSTALLED)  ## run the study of params.yaml and print its result
	python -m pipelines.ray_session.head dvc repro
	repro show

test: $(INSTALLED)  ## run all tests this machine can run
	pytest --numprocesses auto --maxprocesses 8 $(ON_ONE_CORE); first=$$?; \
	  pytest $(addprefix --ignore=,$(ON_ONE_CORE)) && exit $$first

lint: $(INSTALLED)  ## style, types, import contracts
	ruff check .
	ruff format --check .
	mypy
	lint-imports

ui: $(INSTALLED)  ## serve the MLflow pages
	repro ui

bench: $(INSTALLED)  ## run the benchmarks and write benchmarks/results/
	python -m benchmarks.quickstart
	python -m benchmarks.surface_metrics
	python -m benchmarks.report
	python -m benchmarks.memory_estimate
	python -m benchmarks.nnunet_fingerprint
	python -m benchmarks.nnunet_plans
	python -m benchmarks.nnunet_preprocessing
	python -m benchmarks.nnunet_training
	python -m benchmarks.nnunet_inference
	python -m benchmarks.mamba_tinyshakespeare
	python -m benchmarks.selective_scan
	python -m benchmarks.page
	python -m benchmarks.zoo_latency
	python -m pipelines.reporting.zoo

clean:  ## remove what a study made; data, .dvc/cache and MLflow's records stay
	rm -rf sources cases fingerprints plans prepared tuned models results reports work dvc_plots

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	  { echo "error: $(PYTHON) is not Python 3.11; install it or say make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --compile-bytecode --requirement requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@
