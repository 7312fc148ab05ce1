# Two commands that work on a fresh machine with Python 3.11 to 3.13: make demo, make test.
# Both build .venv themselves; make clean takes away everything that they made.

PYTHON := $(shell for p in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null 2>&1 && \
	$$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && \
	echo $$p && break; done)
VENV := .venv
# Two processes of one thread each are faster on two cores than one process whose threads wait for each other.
PYTEST_ARGS ?= -n 2 --dist loadfile
# Tests start hundreds of processes: each would compile all modules again where this is set.
unexport PYTHONDONTWRITEBYTECODE
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-extras attack docs package pictures lint types check clean

demo: $(VENV)/core.stamp  ## install the core, then go the whole way on drawn faces, offline
	$(BIN)/fer demo

test: $(VENV)/dev.stamp  ## install everything but DeepFace and MediaPipe, then run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

attack: $(VENV)/dev.stamp  ## attack a server of our own for about half an hour
	OMP_NUM_THREADS=1 FER_ATTACK=whole $(BIN)/python -m pytest -m attack

# Each in an environment of its own, since each puts its own OpenCV over ours.
test-extras: $(VENV)-deepface/extra.stamp $(VENV)-mediapipe/extra.stamp $(VENV)-provider/stamp  ## DeepFace, MediaPipe, engines
	$(VENV)-provider/bin/python -m pytest tests/embedder/test_engines.py
	OMP_NUM_THREADS=1 $(VENV)-deepface/bin/python -m pytest tests/faces tests/embedder/test_equals_deepface.py
	OMP_NUM_THREADS=1 $(VENV)-mediapipe/bin/python -m pytest tests/faces tests/embedder/test_landmarks.py

docs: $(VENV)/docs.stamp  ## the documentation as a site in build/site, which opens without a server or a connection
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "open build/site/index.html"

package: $(VENV)/dev.stamp  ## source archive and wheel in dist/, tried in fresh environments
	.ci/package $(BIN)/python

pictures: $(VENV)/dev.stamp  ## make every picture of the documentation that needs no data set of others again
	$(BIN)/python -m benchmarks.pictures docs/images

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
	$(PIP) -e ".[plots]"
	@touch $@

$(VENV)/dev.stamp: setup.cfg pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e ".[all,dev]"
	@touch $@ $(VENV)/core.stamp

$(VENV)/docs.stamp: setup.cfg pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e ".[docs]"
	@touch $@

# Whichever OpenCV wheel was unpacked last is the one that counts; without windows it needs no libraries of a desktop.
$(VENV)-%/extra.stamp: setup.cfg pyproject.toml constraints.txt | $(VENV)/bin/python
	$(VENV)/bin/python -m venv $(VENV)-$*
	$(VENV)-$*/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$*]" \
		hypothesis pytest pytest-timeout
	$(VENV)-$*/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps \
		--force-reinstall opencv-contrib-python-headless
	@touch $@

# Another wheel of ONNX Runtime, with a provider that can be selected on any processor of this kind.
$(VENV)-provider/stamp: setup.cfg pyproject.toml constraints.txt | $(VENV)/bin/python
	$(VENV)/bin/python -m venv $(VENV)-provider
	$(VENV)-provider/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		onnxruntime-openvino numpy onnx opencv-python-headless pillow click python-dotenv platformdirs tqdm \
		fsspec pytest pytest-timeout
	$(VENV)-provider/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-deepface $(VENV)-mediapipe $(VENV)-provider demo build dist man *.egg-info .pytest_cache .mypy_cache .ruff_cache
