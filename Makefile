# make demo        compress and decompress two photographs
# make demo-mnist  compress and verify MNIST test images, in a table beside other compressors
# make test        the tests (a few minutes); make test-slow adds those that take longer
# make bench       time and memory of coding beside the network alone, and of training (10 minutes)
# make pretrained  train the checkpoints that ship (two hours of one core with bfloat16 instructions); resumable
# make horovod     build Horovod for training with mpiexec (scripts/install_horovod.sh says what it needs)
# Each creates the environment in .venv first, once; VENV=DIR uses another folder.

PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

.PHONY: demo demo-mnist test test-slow lint bench pretrained horovod

demo: $(VENV)/ready
	$(RUN) demo_compress.py

demo-mnist: $(VENV)/ready
	$(RUN) mnist_compress.py --experiments=10 --ndatapoints=10 --output=demo

test: $(VENV)/ready-dev
	$(RUN) -m pytest -n auto --dist loadgroup

test-slow: $(VENV)/ready-dev
	$(RUN) -m pytest -n auto --dist loadgroup -m "slow or not slow"

lint: $(VENV)/ready-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/lint-imports

bench: $(VENV)/ready
	-$(RUN) -m pip install --quiet constriction
	$(RUN) benchmarks/coder.py
	$(RUN) benchmarks/memory.py
	$(RUN) benchmarks/compression.py
	$(RUN) benchmarks/chart.py
	$(RUN) benchmarks/training.py --processes 1 2

pretrained: $(VENV)/ready
	$(RUN) scripts/pretrained.py

horovod: $(VENV)/ready
	PYTHON=$(RUN) scripts/install_horovod.sh

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/ready: requirements.txt | $(VENV)/bin/python
	$(RUN) -m pip install --quiet -r requirements.txt
	touch $@

$(VENV)/ready-dev: requirements-dev.txt requirements.txt | $(VENV)/bin/python
	$(RUN) -m pip install --quiet -r requirements-dev.txt
	touch $@ $(VENV)/ready
