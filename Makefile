# setup: .venv with everything.  run: one real prompt on the bundled pair.  test: every check.
PYTHON ?= python3
BIN := .venv/bin
PROMPT ?= Once upon a time

.PHONY: setup run test test-slow lint train clean

setup: .venv/.done
	@SPECEXEC_REQUIRE_KERNELS=1 $(BIN)/python setup.py --quiet build_kernels --inplace

.venv/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	PIP_CONSTRAINT=constraints.txt $(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

run: setup
	$(BIN)/specexec run --stats "$(PROMPT)" </dev/null

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest

test-slow: lint
	$(BIN)/pytest -m slow

train: setup
	$(BIN)/python -m specexec.bundled.train ../shared/data/text/tinystories_5k.jsonl.gz --out specexec/bundled

clean:
	rm -rf .venv build dist *.egg-info specexec/kernels/libspecexec.*
