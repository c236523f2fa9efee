.DEFAULT_GOAL := help
.PHONY: help demo test venv lint image image-buildah bench clean
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
EXTRA ?= cpu
DEMO ?= demo

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(VENV)/.run: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "covct needs Python 3.11 or newer, got " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRA)]'
	touch $@

$(VENV)/.dev: $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRA),dev]'
	touch $@

venv: $(VENV)/.dev ## install covct with its development tools into $(VENV)

demo: $(VENV)/.run ## install, segment a synthetic chest CT with the shipped weights, show the result
	rm -rf $(DEMO)
	$(BIN)/covct phantom $(DEMO)/phantom
	$(BIN)/covct scan $(DEMO)/phantom/dicom --out $(DEMO)/out
	$(BIN)/python examples/demo/compare.py $(DEMO)/phantom/truth.json $(DEMO)/out

test: $(VENV)/.dev ## install and run the tests, linters included
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -n 2

lint: $(VENV)/.dev ## ruff, mypy and hadolint
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/hadolint docker/Dockerfile docker/Dockerfile.gpu

image: ## build the container image (needs a docker engine)
	docker build -f docker/Dockerfile -t covct:cpu .

image-buildah: ## build and run the image without an engine and without a registry (root, about 3 GB)
	bash docker/build-with-buildah.sh

bench: $(VENV)/.run ## measure speed and memory of a 300-slice series
	$(BIN)/python benchmarks/scan_throughput.py

clean: ## remove what the targets above made
	rm -rf $(VENV) $(DEMO)
