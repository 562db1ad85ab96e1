# make demo    sets up, then labels reviews, finds names and translates with the bundles that ship with lmcli,
#              gets a small language model (93 MB), asks it and has it summarize
# make test    sets up, then runs every test
# make lint    formatting, lint and types
# make bench   speed, memory and quality beside transformers, optimum, CTranslate2, llama.cpp and onnxruntime-genai
#              (which get their own environment)
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
	@echo; echo '$$ lmcli pull smollm2-135m-instruct'
	@$(BIN)/lmcli pull smollm2-135m-instruct
	@echo; echo "$$ lmcli prompt --template 'Explain in one short sentence what this is: {text}' $(SAMPLES)/words.txt"
	@$(BIN)/lmcli prompt --template 'Explain in one short sentence what this is: {text}' $(SAMPLES)/words.txt
	@echo; echo '$$ lmcli prompt ... --examples $(SAMPLES)/tickets.tsv --choices billing,bug,wish $(SAMPLES)/inbox.tsv'
	@$(BIN)/lmcli prompt --raw --template $(SAMPLES)/ticket.txt --examples $(SAMPLES)/tickets.tsv --shots 9 \
		--choices billing,bug,wish --calibrate --gold label $(SAMPLES)/inbox.tsv
	@echo; echo '$$ lmcli summarize --by doc --length short $(SAMPLES)/council.txt'
	@$(BIN)/lmcli summarize --by doc --length short $(SAMPLES)/council.txt

test: .venv/dev
	$(BIN)/python -m pytest

lint: .venv/dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

bench: .venv/dev
	$(BIN)/python -m tests.bench.encoders
	$(BIN)/python -m tests.bench.jobs
	$(BIN)/python -m tests.bench.anatomy
	$(BIN)/python -m tests.bench.translate
	$(BIN)/python -m tests.bench.prompt
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
