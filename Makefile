# make demo   search a student on embedded real data and print the best five
# make test   run the tests
# make check  lint, formatting, types
# Each makes the environment in $(VENV) first, once.

PYTHON ?= python3
VENV ?= .venv
RUN ?= runs/demo
BIN := $(VENV)/bin

.PHONY: demo test check
demo: $(VENV)/.installed
	$(BIN)/diswot search --space nasbench201 --teacher cifar_resnet56 --probe digits \
		--max_params 0.6e6 --evaluations 150 --out $(RUN)

test: $(VENV)/.installed
	$(BIN)/python -m pytest

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@
