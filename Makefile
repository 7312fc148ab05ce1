# Two commands that work on a fresh machine with Python 3.11 to 3.13: make demo, make test.
# Both build .venv themselves; make clean takes away everything that they made.

PYTHON := $(shell for p in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null 2>&1 && \
	$$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && \
	echo $$p && break; done)
VENV := .venv
# Two processes of one thread each are faster on two cores than one process whose threads wait for each other.
PYTEST_ARGS ?= -n 2 --dist loadfile
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test attack lint types check clean

demo: $(VENV)/core.stamp  ## install the core, then go the whole way on drawn faces, offline
	$(BIN)/fer demo

test: $(VENV)/dev.stamp  ## install everything, then run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

attack: $(VENV)/dev.stamp  ## attack a server of our own for about half an hour
	OMP_NUM_THREADS=1 FER_ATTACK=whole $(BIN)/python -m pytest -m attack

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev.stamp
	$(BIN)/mypy

check: lint types test

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 with the modules venv and ensurepip was not found." \
		"Install it (on Debian: apt-get install python3 python3-venv), or name it: make demo PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/core.stamp: setup.cfg pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e .
	@$(call ensure_opencv)
	@touch $@

$(VENV)/dev.stamp: setup.cfg pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e ".[all,dev]"
	@$(call ensure_opencv)
	@touch $@ $(VENV)/core.stamp

# OpenCV with windows needs libGL, which servers and containers lack: there the build without windows takes its place.
define ensure_opencv
	$(BIN)/python -c 'import cv2' 2>/dev/null || \
		$(PIP) --force-reinstall --no-deps opencv-python-headless
endef

clean:
	rm -rf $(VENV) demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
