# make demo   train a teacher on embedded real images, search a student for it and print the best five, distil the best
#             from 100 images, and compare it with the same student trained alone
# make test   run the tests, in one process for each core and one thread in each, without those of `make faults`
# make faults run the tests that start, kill and lose other processes and machines
# make lowest run the tests of bad and unsafe input with the lowest allowed versions of what reads files
# make docs   build the site in docs/_build; a warning is an error
# make check  check style, formatting and types
# Each target creates the environment in $(VENV) when it is first needed.

PYTHON ?= python3
VENV ?= .venv
RUN ?= runs/demo
BIN := $(VENV)/bin

.PHONY: demo test faults lowest docs check
demo: $(VENV)/.installed
	$(BIN)/diswot run --dataset digits --data_options.image_size 16 \
		--teacher cifar_resnet20 --teacher_epochs 12 --teacher_recipe_options.batch_size 32 \
		--teacher_data_options.train_limit null --data_options.train_limit 100 \
		--space cifar_resnet_s0 --algorithm exhaustive --max_params 0.15e6 \
		--finalists 0 --distiller kd --epochs 100 --batch_size 20 --recipe_options.padding 2 --out $(RUN)

test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto -m "not faults"

faults: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadgroup -m faults

lowest:
	$(PYTHON) -m venv $(VENV)-lowest
	sed -nE 's/^ +"(torchvision|torch|timm|safetensors|jsonargparse)(\[[a-z,]*\])?>=([0-9.]+)",/\1==\3/p' pyproject.toml \
		> $(VENV)-lowest/lowest.txt
	$(VENV)-lowest/bin/python -m pip install --quiet --constraint $(VENV)-lowest/lowest.txt --editable '.[onnx,testing]' hypothesis
	OMP_NUM_THREADS=1 $(VENV)-lowest/bin/python -m pytest tests/test_bad_inputs.py \
		tests/search_spaces/test_recipes.py tests/search_spaces/test_weights.py tests/networks/test_saved.py

docs: $(VENV)/.installed
	$(BIN)/sphinx-build -W --keep-going -q docs docs/_build

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@
