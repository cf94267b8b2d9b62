# Two commands: `make demo` and `make test`. Each sets up its own environment in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests in as many processes as there are cores.
WORKERS ?= auto

.PHONY: demo test test-slow test-kill test-hostile test-transformers-4 test-lmms lint format clean

# An edited pyproject.toml installs again.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-test: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@ $(VENV)/.installed

demo: $(VENV)/.installed
	$(BIN)/vlm-jax demo --out runs/demo

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow and not lmms and not hostile"

# Minutes each, one after the other: they use all cores themselves.
test-slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m "slow and not kill"

# Every kind of run, killed at twenty moments.
test-kill: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m kill

# Every hostile input; the quick ones belong to `make test` too.
test-hostile: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal tests/hostile

# Checkpoints and tokenizers under the oldest transformers that pyproject.toml allows.
test-transformers-4: $(VENV)/.installed-test
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/transformers-4 \
	    "transformers==4.57.*" "huggingface_hub<1" "tokenizers<0.23"
	PYTHONPATH=$(VENV)/transformers-4 $(BIN)/python -m pytest -n $(WORKERS) -m "not slow" \
	    tests/checkpoints tests/data/test_llama_tokenizer.py

# Our class in lmms-eval itself, and what stands in for it in the other tests. Of what it asks for (torch for a GPU, wandb,
# a hundred more) only what its own modules import on the way to models and tasks.
test-lmms: $(VENV)/.installed-test
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/lmms-eval \
	    "lmms-eval>=0.7.3,<0.8" "filelock<4" datasets dill evaluate loguru multiprocess pandas pytz tenacity xxhash
	PYTHONPATH=$(VENV)/lmms-eval $(BIN)/python -m pytest \
	    tests/evals/test_lmms_eval_model.py tests/evals/test_lmms_stand_in.py

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info runs
