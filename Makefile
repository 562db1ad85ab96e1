# make demo    sets up, then labels reviews, finds names and translates with the bundles that ship with lmcli
# make test    sets up, then runs every test
# make lint    formatting, lint and types
# make bench   speed, memory and quality beside transformers, optimum and CTranslate2 (which get their own environment)
# make clean   removes what the others made

PYTHON ?= python3
BIN := .venv/bin
SAMPLES := docs/samples

.PHONY: demo test lint bench clean

demo: .venv/base
	@echo; echo '$$ lmcli sentiment $(SAMPLES)/reviews.txt'
	@$(BIN)/lmcli sentiment $(SAMPLES)/reviews.txt
	@echo; echo '$$ lmcli ner $(SAMPLES)/news.txt'
	@$(BIN)/lmcli ner $(SAMPLES)/news.txt
	@echo; echo '$$ lmcli translate $(SAMPLES)/notes.txt'
	@$(BIN)/lmcli translate $(SAMPLES)/notes.txt
	@echo; echo '$$ lmcli ner -O jsonl $(SAMPLES)/news.txt | head -1'
	@$(BIN)/lmcli ner -O jsonl $(SAMPLES)/news.txt | head -1

test: .venv/dev
	$(BIN)/python -m pytest

lint: .venv/dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

bench: .venv/dev
	$(BIN)/python -m tests.bench.encoders
	$(BIN)/python -m tests.bench.anatomy
	$(BIN)/python -m tests.bench.translate
	$(BIN)/python -m tests.bench.quality

clean:
	rm -rf .venv .bench build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/base: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable . --constraint tests/constraints.txt
	touch $@

.venv/dev: .venv/base tests/constraints.txt
	$(BIN)/pip install --quiet --editable '.[export,dev]' --constraint tests/constraints.txt
	touch $@
