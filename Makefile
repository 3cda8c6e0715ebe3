# Everything but help makes the environment in .venv first, once; VENV=DIR uses another folder, PYTHON=... another Python.

PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
PYTEST = $(RUN) -m pytest -n auto --dist loadfile  # the tests of a file share what takes long

.DEFAULT_GOAL := help
.PHONY: help demo demo-mnist test test-slow lint bench pretrained horovod

help:  ## this list
	@echo "make TARGET, with one of"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 15
	@echo "The environment is made in $(VENV) first, once; VENV=DIR uses another folder."

demo: $(VENV)/ready  ## compress and decompress two photographs, next to PNG, WebP, ...
	$(RUN) demo_compress.py

demo-mnist: $(VENV)/ready  ## the same with 10 x 10 MNIST digits, with Bit-Swap and BB-ANS
	$(RUN) mnist_compress.py --experiments=10 --ndatapoints=10 --output=demo

test: $(VENV)/ready-dev  ## the tests (a few minutes)
	$(PYTEST)

test-slow: $(VENV)/ready-dev  ## those that take longer, too
	$(PYTEST) -m "slow or not slow"

lint: $(VENV)/ready-dev  ## style, format, types and the direction of imports
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports

bench: $(VENV)/ready  ## time compression and training (some ten minutes); writes benchmarks/*.csv and chart.png
	-$(RUN) -m pip install --quiet constriction
	$(RUN) benchmarks/coder.py
	$(RUN) benchmarks/compression.py
	$(RUN) benchmarks/chart.py
	$(RUN) benchmarks/training.py

pretrained: $(VENV)/ready  ## train the checkpoints that ship (some hours of one core with bfloat16 instructions); resumable
	$(RUN) scripts/pretrained.py

horovod: $(VENV)/ready  ## build Horovod, for training with mpiexec (scripts/install_horovod.sh --help says what it needs)
	PYTHON=$(RUN) scripts/install_horovod.sh

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/ready: requirements.txt | $(VENV)/bin/python
	$(RUN) -m pip install --quiet -r requirements.txt
	touch $@

$(VENV)/ready-dev: requirements-dev.txt requirements.txt | $(VENV)/bin/python
	$(RUN) -m pip install --quiet -r requirements-dev.txt
	touch $@ $(VENV)/ready
