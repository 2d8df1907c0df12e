# setup: .venv with everything.  run: one real prompt on the bundled pair.  test: every check.
PYTHON ?= python3
BIN := .venv/bin
PIP := PIP_CONSTRAINT=constraints.txt $(BIN)/pip install --quiet --disable-pip-version-check
PROMPT ?= Once upon a time

# Tests start hundreds of processes, each of which would compile the package anew where that is not kept.
export PYTHONDONTWRITEBYTECODE =

# test-gguf: llama.cpp, compiled from source the first time (3-15 minutes), and what it runs.
.PHONY: setup run test test-slow test-gguf lint train screenshot clean

setup: .venv/.done
	@SPECEXEC_REQUIRE_KERNELS=1 $(BIN)/python setup.py --quiet build_kernels --inplace

.venv/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) 'setuptools>=77'
	$(BIN)/python setup.py --quiet build_kernels --inplace & $(PIP) -e '.[dev]' && wait  # downloads while it compiles
	touch $@

run: setup
	$(BIN)/specexec run --stats "$(PROMPT)" </dev/null

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: lint
	$(BIN)/pytest -m slow

test-gguf: setup .venv/.gguf
	$(BIN)/pytest tests/gguf

.venv/.gguf: pyproject.toml
	$(PIP) -e '.[gguf]'
	touch $@

train: setup
	$(BIN)/python -m specexec.bundled.train ../shared/data/text/tinystories_5k.jsonl.gz --out specexec/bundled

screenshot: setup
	$(BIN)/python -m docs.screenshot

clean:
	rm -rf .venv build dist *.egg-info specexec/kernels/libspecexec.*
