# make reproduce: the whole default experiment on a fresh machine; make test: every test.
# PARAMS=configs/ci.yaml runs another experiment (DVC versions params.yaml only).

PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(shell command -v $(p))))
VENV   := .venv
BIN    := $(CURDIR)/$(VENV)/bin
READY  := $(VENV)/.ready
PARAMS ?= params.yaml
CORES  ?= $(shell nproc 2>/dev/null || echo 2)

export PATH := $(BIN):$(PATH)
export MMFL_CORES ?= $(CORES)

.PHONY: help reproduce run env test lint format sync check-cluster
.DEFAULT_GOAL := help

help:
	@echo "make reproduce  the default experiment: environment, every step, tables and page"
	@echo "make run        the same with Snakemake alone; PARAMS=configs/ci.yaml for another experiment"
	@echo "make test       environment and every test"
	@echo "make lint       style, types and workflow checks"
	@echo "make check-cluster  do the values of profiles/slurm fit this cluster? SUBMIT=--submit sends jobs"
	@echo "make sync       after a clone or checkout: outputs from DVC, and both tools agree"

env: $(READY)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("python: found %d.%d, expected 3.11 or newer; set PYTHON=python3.11" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

ifeq ($(PARAMS),params.yaml)
reproduce: $(READY)
	@python workflow/scripts/stage.py start all
	dvc repro
	@python workflow/scripts/stage.py page all
	@mmfl headline --params data/start/params.yaml
else
reproduce: run
endif

run: $(READY)
	snakemake --cores $(CORES) --configfile $(PARAMS)
	@mmfl headline --params $(PARAMS)

test: $(READY)
	python -m pytest -n $(CORES) --dist loadfile --no-loadscope-reorder

lint: $(READY)
	ruff check .
	ruff format --check .
	mypy
	snakefmt --check Snakefile workflow
	snakemake --lint
	python workflow/scripts/docs_tables.py --check

format: $(READY)
	ruff check --fix .
	ruff format .
	snakefmt Snakefile workflow

sync: $(READY)
	python workflow/scripts/sync.py

check-cluster: $(READY)
	@python workflow/scripts/check_cluster.py --params $(PARAMS) $(SUBMIT)
