# setup: .venv with everything.  run: one real prompt on the bundled pair.  test: every check.
PYTHON ?= python3
BIN := .venv/bin
PIP := PIP_CONSTRAINT=constraints.txt $(BIN)/pip install --quiet --disable-pip-version-check
INSTALL := env -u MAKEFLAGS SPECEXEC_SKIP_KERNELS=1 $(PIP)
PROMPT ?= Once upon a time

# Tests start hundreds of processes, each of which would compile the package anew where that is not kept.
export PYTHONDONTWRITEBYTECODE =

# What does not need one another is made at the same time: kernels compile, at the lowest priority, while pip downloads.
MAKEFLAGS += --jobs=2

# test-gguf: llama.cpp, compiled from source the first time (3-15 minutes), and what it runs.
.PHONY: setup kernels run test test-slow test-gguf lint train screenshot clean

setup: kernels .venv/.done

kernels: .venv/.made
	@SPECEXEC_REQUIRE_KERNELS=1 nice -n 19 $(BIN)/python setup.py --quiet build_kernels --inplace

.venv/.made:
	$(PYTHON) -m venv .venv
	$(PIP) 'setuptools>=77'
	@touch $@

.venv/.done: .venv/.made pyproject.toml constraints.txt
	$(INSTALL) --no-compile -e '.[dev]'  # what tests import is compiled as they come
	@touch $@

run: setup
	$(BIN)/specexec run --stats "$(PROMPT)" </dev/null

lint: .venv/.done
	$(BIN)/ruff check .
	$(BIN)/mypy

test: setup lint
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder

test-slow: setup lint
	$(BIN)/pytest -m slow

test-gguf: setup .venv/.gguf
	$(BIN)/pytest tests/gguf

.venv/.gguf: .venv/.done pyproject.toml
	$(INSTALL) -e '.[gguf]'
	touch $@

train: setup
	$(BIN)/python -m specexec.bundled.train ../shared/data/text/tinystories_5k.jsonl.gz --out specexec/bundled

screenshot: setup
	$(BIN)/python -m docs.screenshot

clean:
	rm -rf .venv build dist *.egg-info specexec/kernels/libspecexec.*
