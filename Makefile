# make demo   from the shipped images to a trained net and its learning curve
# make test   the tests
# make lint   formatting, lint, types
# make clean  remove what the others made, .venv included
#
# PYTHON=python3.12 picks the interpreter, EXTRAS=cpu,test,cuda12 what is installed, NETC_VENV=folder where.

PYTHON ?= python3
EXTRAS ?= cpu,test,dev,gate
WORKERS ?= 2
VENV := $(or $(NETC_VENV),.venv)
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.netc-installed
DEMO := build/demo
DIGITS_FLAGS := -gray -resize_height 16 -resize_width 16 -shuffle -seed 1
CHECK_PYTHON := import sys; sys.exit(sys.version_info < (3, 10) and "netc needs Python 3.10 or newer, $(PYTHON) is \
	%d.%d: try make PYTHON=python3.11" % sys.version_info[:2])

.PHONY: demo test lint lint-rules lint-format lint-types clean
.DELETE_ON_ERROR:

test: $(INSTALLED)
	$(BIN)/python -m pytest -n $(WORKERS)

lint: lint-rules lint-format lint-types

lint-rules: $(INSTALLED)
	$(BIN)/ruff check .

lint-format: $(INSTALLED)
	$(BIN)/ruff format --check .

lint-types: $(INSTALLED)
	$(BIN)/mypy

$(INSTALLED): setup.py pyproject.toml $(wildcard proto/*.proto)
	test -x $(BIN)/python || { $(PYTHON) -c '$(CHECK_PYTHON)' && $(PYTHON) -m venv --clear $(VENV); }
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS)]'
	@touch $@

# The prototxt files of models/digits name what lies in build/demo.
demo: $(INSTALLED)
	rm -rf $(DEMO)
	$(BIN)/python -m tarfile -e models/digits/digits.tar.xz $(DEMO)/images
	$(BIN)/netc convert_imageset $(DIGITS_FLAGS) $(DEMO)/images/train/ $(DEMO)/digits_train_lmdb
	$(BIN)/netc convert_imageset $(DIGITS_FLAGS) $(DEMO)/images/test/ $(DEMO)/digits_test_lmdb
	$(BIN)/netc compute_image_mean $(DEMO)/digits_train_lmdb $(DEMO)/mean.binaryproto
	$(BIN)/netc train -solver models/digits/solver.prototxt -threads 1 -log_dir $(DEMO)/log
	$(BIN)/netc test -model models/digits/train_val.prototxt -weights $(DEMO)/digits_iter_1000.caffemodel -iterations 5
	$(BIN)/netc plot $(DEMO)/log -o $(DEMO)/curve.png
	@echo
	@echo 'The trained net:    $(DEMO)/digits_iter_1000.caffemodel (models/digits/deploy.prototxt is the net to use it in)'
	@echo 'The learning curve: $(DEMO)/curve.png'
	@echo 'The log:            $(DEMO)/log'

clean:
	rm -rf .venv build dist *.egg-info netc/proto/netc_pb2* .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find netc tools tests -name __pycache__ -type d -prune -exec rm -rf {} +
