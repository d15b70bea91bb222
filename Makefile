# `make demo` and `make test` are the only set-up: both create .venv and install what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORES := $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)

.PHONY: demo test bench bench-metrics bench-model bench-data bench-train lint lock clean
.DEFAULT_GOAL := demo

$(VENV)/core: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[metrics,model]"
	@touch $@

$(VENV)/dev: $(VENV)/core
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(VENV)/core   ## generate talkbench-mini, score the known-answer systems, print Table 1, write the page; run the model
	$(BIN)/talkbench generate mini --system known --out runs/demo
	$(BIN)/talkbench score runs/demo --metric sync_frame --items 'mini-s*' --json > /dev/null
	$(BIN)/talkbench score runs/demo --metric flicker,motion,speed,av
	$(BIN)/talkbench report page --run runs/demo
	$(BIN)/talkbench generate mini --system soulx-livetalk-tiny --items mini-s03 --out runs/demo-model

test: $(VENV)/dev lint   ## every test; those of the page need a Chromium and say so if there is none
	$(BIN)/python -m pytest -q -n $(CORES) --dist worksteal

lint: $(VENV)/dev   ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/dev   ## time and memory, as ratios in one run
	$(BIN)/python -m tests.bench

bench-metrics: $(VENV)/dev   ## network metrics against the official packages; installs those the first time
	$(BIN)/python -m tests.bench.metrics

bench-model: $(VENV)/dev   ## the reference model's code paths against their plain forms
	$(BIN)/python -m tests.bench.model

bench-data: $(VENV)/dev   ## indexing and selection over a million synthetic rows (a few GB of disk); the scheduler
	$(BIN)/python -m tests.bench.data
	$(BIN)/python -m tests.bench.schedule

bench-train: $(VENV)/dev   ## training steps at toy size: recomputing, compiling, truncated roll-outs, two processes
	$(BIN)/python -m tests.bench.train

lock:   ## constraints.txt from a clean environment with the newest releases
	rm -rf $(VENV)/lock && $(PYTHON) -m venv $(VENV)/lock
	$(VENV)/lock/bin/python -m pip install -qq --disable-pip-version-check -e ".[dev]"
	$(VENV)/lock/bin/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt
	rm -rf $(VENV)/lock

clean:   ## remove what is generated; runs and caches of results stay
	rm -rf $(VENV) build dist *.egg-info
