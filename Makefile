# Everything a person does with a checkout. `make` alone says what there is.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Options, as in `make run PORT=9000 BROWSER=no`:
PORT ?= 8888
VENV ?= .venv
ARGS ?=

# A python3 >= 3.11 with venv; another one by `make run PYTHON=/path/to/python3`.
PYTHON ?=
PYTHONS := $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3)

BIN := $(VENV)/bin
export PATH := $(abspath $(BIN)):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore

# What an installation is made of: when none of it changed, nothing is installed. The code itself is installed editable.
INSTALLED := pyproject.toml $(wildcard kernelspecs/*/* jupyter-config/*/*)

.PHONY: help
help: ## this list
	@echo "jupyter-sandbox: every Jupyter kernel in its own sandbox"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "options: PORT=8888  BROWSER=no  PYTHON=python3.12  VENV=.venv  ARGS='...' (test, bench, conformance)"

.PHONY: run
run: $(VENV)/.lab ## JupyterLab with the first notebook, kernels in sandboxes
	@jupyter sandbox doctor --quick
	@options=(); \
	if [ "$$(id -u)" = 0 ]; then options+=(--allow-root); fi; \
	if [ "$(BROWSER)" = no ] || [ -z "$${DISPLAY:-}$${WAYLAND_DISPLAY:-}" ]; then options+=(--no-browser); fi; \
	echo "Starting JupyterLab: open the address with the token below. Ctrl-C ends it and every sandbox it started."; \
	exec jupyter lab "$${options[@]}" \
	    --ServerApp.answer_yes=True \
	    --ServerApp.ip=127.0.0.1 \
	    --ServerApp.port=$(PORT) \
	    --ServerApp.root_dir='$(CURDIR)/examples' \
	    --LabApp.default_url=/lab/tree/first.ipynb \
	    --MultiKernelManager.default_kernel_name=sandbox-python

.PHONY: test
test: $(VENV)/.test ## all tests; one of them: make test ARGS='-k name'
	@python -m pytest $(ARGS)

.PHONY: test-containers
test-containers: $(VENV)/.test ## attacks, chaos, server and clients with the engine docker; needs its images (.ci/docker)
	@JUPYTER_SANDBOX_ENGINE=docker python -m pytest tests/attacks tests/server tests/e2e tests/chaos tests/faults/test_network.py -k 'not unprivileged' $(ARGS)

.PHONY: check
check: ## style, types, layers, dependencies, spelling
	@.ci/check

.PHONY: bench
bench: $(VENV)/.bench ## how fast it is on this machine: writes docs/benchmarks.md; a look: make bench ARGS=--quick
	@python -m benchmarks.peer
	@python -m benchmarks $(or $(ARGS),--docs)

.PHONY: soak
soak: $(VENV)/.test ## faults without end, with figures in soak.jsonl: ARGS='--minutes 60'
	@python -m tests.chaos.soak $(ARGS)

.PHONY: conformance
conformance: $(VENV)/.test ## other projects' test suites against our kernels: ARGS='nbclient'
	@tests/conformance/run $(ARGS)

.PHONY: clean
clean: ## remove what make made: virtual environment, caches, builds
	rm -rf -- '$(VENV)' build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf -- {} +

# --- the virtual environment: one stamp file for each set of extras ---

.PHONY: tools
tools: $(VENV)/.check

$(VENV)/.lab $(VENV)/.test $(VENV)/.check $(VENV)/.bench: $(VENV)/.%: $(INSTALLED) | $(BIN)/python
	@echo "Installing jupyter-sandbox[$*] into $(VENV) ..."
	@python -m pip install --quiet --editable '.[$*]'
	@touch $@

$(BIN)/python:
	@PATH=$${PATH#*:}; \
	for candidate in $(PYTHONS); do \
	    python=$$(command -v "$$candidate") || continue; \
	    "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	    old_enough=$$python; \
	    "$$python" -c 'import ensurepip, venv' 2>/dev/null || continue; \
	    echo "Making a virtual environment in $(VENV) with $$python ..."; \
	    exec "$$python" -m venv --clear '$(VENV)'; \
	done; \
	if [ -n "$${old_enough:-}" ]; then \
	    echo "$$old_enough cannot make virtual environments: its venv module is missing." >&2; \
	    echo "Debian and Ubuntu: sudo apt install python3-venv" >&2; \
	else \
	    echo "No Python 3.11 or newer was found (tried: $(PYTHONS))." >&2; \
	    echo "Debian and Ubuntu: sudo apt install python3 python3-venv; or: make run PYTHON=/path/to/python3" >&2; \
	fi; \
	exit 1
