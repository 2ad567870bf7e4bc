# `make demo`, then `make test`: the two commands of the README. Everything else is for developers.
# All targets install what they need into .venv, once.

SHELL := /bin/bash
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
# One torch thread a process: with two beside other work a step can take ten times as long.
export OMP_NUM_THREADS ?= 1
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export HF_HUB_OFFLINE ?= 1
# Files of tests that run side by side; each stays in one process, with its servers and models.
TEST_WORKERS ?= 2

.PHONY: nights night-starts families cutouts review-bench ranker publishing publish-kills clip-guidance selection settings memory orchestration help demo test lint types check bench peers engines kills scale lock docs starter-docs clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(VENV)/.installed: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "needs Python 3.11 or newer: set PYTHON=..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --compile-bytecode -r requirements.lock
	$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --no-deps -e .
	touch $@

demo: $(VENV)/.installed  ## make the game assets of configs/game-assets.yaml through the Prefect flow
	$(BIN)/python flows/produce.py configs/game-assets.yaml

test: $(VENV)/.installed  ## run every test
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.installed  ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed  ## types
	$(BIN)/mypy

check: lint types test  ## all three

bench: $(VENV)/.installed  ## measure this machine, into docs/performance.md
	$(BIN)/python benchmarks/pipeline.py

selection: $(VENV)/.installed  ## what cutting mid-way keeps and saves, what adaptive seeds gain
	$(BIN)/python benchmarks/selection.py
	$(BIN)/python benchmarks/cut_run.py

settings: $(VENV)/.installed  ## what channels_last, fused projections and torch.compile gain here
	$(BIN)/python benchmarks/settings.py

families: $(VENV)/.installed  ## what choosing for families together gives and costs, into docs/families.md
	$(BIN)/python benchmarks/families.py

ranker: $(VENV)/.installed  ## what the house ranker learns from a reviewer whose taste CLIP doesn't know
	$(BIN)/python benchmarks/ranker.py

cutouts: $(VENV)/.installed  ## how good cut-outs are on renders with a known mask, into docs/publishing.md
	$(BIN)/python benchmarks/cutouts.py

memory: $(VENV)/.installed  ## memory of a run over 10,000 images
	$(BIN)/python benchmarks/memory.py

publishing: $(VENV)/.installed  ## what publishing adds to a run, and the memory of 10,000 objects
	$(BIN)/python benchmarks/publishing.py

review-bench: $(VENV)/.installed  ## how fast the review page is (needs chromium)
	$(BIN)/python benchmarks/review.py

orchestration: $(VENV)/.installed  ## what Prefect adds to 512 seconds of work
	$(BIN)/python benchmarks/orchestration.py

.PHONY: scaling
scaling: $(VENV)/.installed  ## what 2, 4 and 8 workers gain, processes and Ray actors, on a simulated engine
	$(BIN)/python benchmarks/scaling.py

clip-guidance: $(VENV)/.installed  ## what CLIP guidance gives under other judges, into docs/clip-guidance.md
	$(BIN)/python benchmarks/clip_guidance.py

scale: $(VENV)/.installed  ## plan 100,000 rows x 8 over a filled folder and a filled bucket
	$(BIN)/python benchmarks/plan.py

peers: $(VENV)/.installed  ## this pipeline against scripts and a Ray Data pool, some 40 minutes
	$(BIN)/python -m uv pip install --quiet --python $(BIN)/python -c requirements.lock 'ray[data]>=2.50'
	cd benchmarks && ../$(BIN)/python -m peers

engines: $(VENV)/.installed  ## run every model family and operation at a tiny size, into docs/engines.md
	$(BIN)/python benchmarks/engines.py
	$(BIN)/python docs/build.py

kills: $(VENV)/.installed  ## 200 kills of a running production
	ASSETMILL_KILLS=200 $(BIN)/python -m pytest tests/test_kills.py

publish-kills: $(VENV)/.installed  ## 200 kills while files are published, to a folder and to a bucket
	ASSETMILL_PUBLISH_KILLS=200 $(BIN)/python -m pytest -s tests/test_kills_publishing.py

nights: $(VENV)/.installed  ## 10,000 images in one flow: its memory, and its server
	$(BIN)/python benchmarks/nights.py

night-starts: $(VENV)/.installed  ## 50 overlapping starts, nothing generated twice
	ASSETMILL_STARTS=50 $(BIN)/python -m pytest -s tests/test_night_starts.py

lock:  ## resolve requirements.lock anew
	uv pip compile -q pyproject.toml --extra test --python-version 3.11 --universal --no-header --no-annotate -o requirements.lock

docs: $(VENV)/.installed  ## the parts of docs/ that are made from the code
	$(BIN)/python docs/build.py

starter-docs: $(VENV)/.installed  ## pictures and figures of the starter models
	$(BIN)/python -m assetmill.starter.showcase

clean:  ## remove what runs and tests made
	rm -rf out .pytest_cache .ruff_cache .mypy_cache .hypothesis
