# Needs Python >= 3.11, make and, for the real Copilot runtime and one server, npm. Everything made goes into .venv and .cache.
#   PYTHON  the interpreter that .venv is made from          make test PYTHON=python3.13
#   ARGS    more arguments for the tool that a target runs   make test ARGS='-k fence -x'
#   STORE   where the demo keeps its session                 make demo STORE=s3://bucket/prefix
#           or chaos its sessions: moto or seaweedfs          make chaos STORE=moto
#   KILLS   how many writers the soak kills on each store    make soak KILLS=1000
#   SEEDS   how many seeds the simulation runs, from FIRST   make sim SEEDS=20000
#   SECONDS how long the fuzzer runs                          make fuzz SECONDS=600
#   MINUTES how long gateways are killed; SEED repeats a run  make chaos MINUTES=30 SEED=7
PYTHON ?= python3
ARGS ?=
STORE ?=
SEEDS ?= 2000
SECONDS ?= 60
MINUTES ?= 10
SEED ?=
FIRST ?= 0
KILLS ?= 100

BIN := .venv/bin
INSTALLED := .venv/installed

# Keep what tools write out of the tree, and tell the tests and the demo where the runtime is kept.
export SESSIONFS_CACHE_DIR ?= $(CURDIR)/.cache
export HYPOTHESIS_STORAGE_DIRECTORY ?= $(CURDIR)/.cache/hypothesis

.DEFAULT_GOAL := help
.PHONY: help .venv check format test soak chaos minio sim fuzz bench demo lock clean FORCE
.SUFFIXES:

help: ## Say what the targets do
	@sed -n 's/^\([.a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

.venv: $(INSTALLED) ## Make the environment that uv.lock describes

# Brought up to date when the lock, the project or the interpreter changes; fails when lock and project disagree.
$(INSTALLED): .cache/python uv.lock pyproject.toml .make/environment.py
	$(PYTHON) .make/environment.py install
	@touch $@

# Holds the interpreter's version and place, and is touched only when they change.
.cache/python: FORCE
	@mkdir -p .cache
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON): not found; name a Python >= 3.11: make PYTHON=…" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; print(sys.version, sys.base_prefix); sys.exit(sys.version_info < (3, 11))' >$@.new \
	    || { echo "$(PYTHON) is $$(cat $@.new): Python >= 3.11 is needed: make PYTHON=python3.11" >&2; exit 1; }
	@cmp -s $@.new $@ && rm $@.new || mv $@.new $@

CHECKS := check-format check-lint check-mypy check-pyright check-imports
.PHONY: $(CHECKS)

check: $(CHECKS) ## Format, lint, strict types (mypy and pyright), import contracts; -k shows all that fails
$(CHECKS): $(INSTALLED)
check-format:
	$(BIN)/ruff format --check --output-format=concise
check-lint:
	$(BIN)/ruff check --output-format=concise
check-mypy:
	$(BIN)/mypy
check-pyright:
	$(BIN)/pyright
check-imports:
	$(BIN)/lint-imports --no-logo --cache-dir .cache/import-linter

format: $(INSTALLED) ## Format, and mend what the linter can mend
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

# Three workers for two cores: much of the suite waits for runtimes and servers to start and to die.
test: $(INSTALLED) ## Run every test, the real runtime included; ARGS go to pytest
	@$(BIN)/python .make/runtime.py
	@$(BIN)/python .make/servers.py
	$(BIN)/pytest -n 3 --dist=loadgroup $(ARGS)

soak: $(INSTALLED) ## Kill writers with SIGKILL on every store, again and again; KILLS=n on each
	SESSIONFS_SOAK_KILLS=$(KILLS) $(BIN)/pytest -n 2 --dist=loadgroup -q -rPs tests/volume/test_kill.py $(ARGS)

chaos: $(INSTALLED) ## Kill and stop gateways and runtimes under 20 sessions; MINUTES=n, STORE=moto or seaweedfs
	SESSIONFS_CHAOS_MINUTES=$(MINUTES) SESSIONFS_CHAOS_SEED=$(SEED) SESSIONFS_CHAOS_STORE=$(STORE) \
	    $(BIN)/pytest -q -rPs tests/gateway/chaos/test_chaos.py $(ARGS)

minio: $(INSTALLED) ## Build MinIO for the tests, with Go: 3 minutes, once, and 2 GB in Go's own caches
	@$(BIN)/python .make/minio.py

sim: $(INSTALLED) ## Simulate replicas that fight over a session in a store that fails; SEEDS=n, from FIRST=n
	SESSIONFS_SIM_SEEDS=$(SEEDS) SESSIONFS_SIM_FIRST=$(FIRST) $(BIN)/pytest -n 2 -q -rP tests/simulation -k everything $(ARGS)

fuzz: $(INSTALLED) ## Fuzz every decoder of the stored format; SECONDS=n, ARGS='--seed 2'
	$(BIN)/python -m tests.format.fuzz --seconds $(SECONDS) $(ARGS)

bench: $(INSTALLED) ## Measure the engine against its aims, some minutes; ARGS='append open --server seaweedfs'
	$(BIN)/python -m benchmarks.engine $(ARGS)

demo: $(INSTALLED) ## A conversation survives kill -9; STORE=moto, file:///dir or s3://bucket/prefix
	$(BIN)/python -m sessionfs_s3.demo $(if $(STORE),--store "$(STORE)") $(ARGS)

lock: .cache/python ## Resolve again into uv.lock; ARGS go to uv lock: ARGS='--upgrade-package ruff'
	$(PYTHON) .make/environment.py lock $(ARGS)

clean: ## Remove everything that was made
	rm -rf .venv .cache dist .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find sessionfs_s3 tests -name __pycache__ -prune -exec rm -rf {} +
