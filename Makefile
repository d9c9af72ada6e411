# make demo: a small dynamic scene, trained, scored and filmed    make test: lint and tests    make lint
# make test-fast: tests without trainings, four minutes at most
# make test-newest: the same with the newest versions that nerfstudio works with, in .venv-newest
# make player: the player of web pages, built by node from web/
# make prior: many small scenes, and one model of all of them, in prior_output
#
# Each sets up what it needs: a .venv with the versions of constraints.txt. Only Python 3.10-3.12 has to be
# there; PYTHON=/path/to/python chooses one, DEMO="--train-minutes 1" passes options to the demo, and
# PRIOR="--max-minutes 60" some to the training of the prior.

VENV := .venv
NEWEST := .venv-newest
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)
DEMO ?=
PRIOR ?= --max-minutes 10
PYTEST ?=
# Files of tests go to a process for each core, each of one thread, in the order of tests/conftest.py.
PARALLEL = OMP_NUM_THREADS=1 $(1)/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder
FAST := -m "not slow and not browser"
# Python compiles what it imports, once; where it must not, every start would take twice as long.
COMPILE := $(if $(PYTHONDONTWRITEBYTECODE),--compile-bytecode)

.DEFAULT_GOAL := help
.PHONY: help setup demo player prior test test-fast test-newest lint clean

help:
	@sed -n '1,10s/^# \{0,1\}//p' Makefile

setup: $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/python -m nest_nerfstudio.scripts.demo $(DEMO)

player:
	cd web && npm ci && npm run build

prior: $(INSTALLED)
	$(BIN)/nest-data toy --output prior_output/scenes --scenes-per-category 5 --size 96 --samples 16
	OMP_NUM_THREADS=1 $(BIN)/torchrun --standalone --no-python --nproc-per-node \
		$$($(BIN)/python -c 'import os, torch; print(torch.cuda.device_count() or min(2, os.cpu_count()))') \
		$(BIN)/ns-train nest-prior --data prior_output/scenes --output-dir prior_output --experiment-name toy \
		--timestamp latest --vis tensorboard --viewer.quit-on-train-completion True $(PRIOR)
	$(BIN)/ns-eval --load-config prior_output/toy/nest-prior/latest/config.yml --output-path prior_output/scores.json
	@echo "Look at it: $(BIN)/ns-viewer --load-config prior_output/toy/nest-prior/latest/config.yml"

test: lint
	$(call PARALLEL,$(VENV)) $(PYTEST)

test-fast: $(INSTALLED)
	$(call PARALLEL,$(VENV)) $(FAST) $(PYTEST)

test-newest: $(NEWEST)/.installed
	$(call PARALLEL,$(NEWEST)) $(FAST) $(PYTEST)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

clean:
	rm -rf $(VENV) $(NEWEST) demo_output prior_output analysis_output

# A name on the path is not enough: version managers leave stubs there that only print an error.
%/bin/python:
	@for python in $(PYTHON) $(if $(PYTHON),,python3.11 python3.12 python3.10 python3 python); do \
		if $$python -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then \
			echo "$$python -m venv $*"; exec $$python -m venv $*; \
		fi; \
	done; \
	echo "Python 3.10, 3.11 or 3.12 is needed: make PYTHON=/path/to/python" >&2; exit 1

# uv installs in a tenth of pip's time; pip does where uv cannot. nerfstudio looks for ffmpeg on the path.
$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	-$(BIN)/python -m pip install --quiet -c constraints.txt uv
	$(BIN)/python -m uv pip install $(COMPILE) --python $(BIN)/python -c constraints.txt -e '.[dev,synth]' \
		|| $(BIN)/python -m pip install -c constraints.txt -e '.[dev,synth]'
	@command -v ffmpeg >/dev/null || ln -sf "$$($(BIN)/python -c \
		'import imageio_ffmpeg; print(imageio_ffmpeg.get_ffmpeg_exe())')" $(BIN)/ffmpeg
	@touch $@

$(NEWEST)/.installed: pyproject.toml constraints-newest.txt | $(NEWEST)/bin/python
	$(NEWEST)/bin/python -m pip install --quiet uv
	$(NEWEST)/bin/python -m uv pip install $(COMPILE) --python $(NEWEST)/bin/python \
		--override constraints-newest.txt -e '.[dev,synth]'
	@touch $@
