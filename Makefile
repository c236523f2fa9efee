.DEFAULT_GOAL := help
.PHONY: help demo docs schemas test test-fast test-random coverage venv lint image image-buildah bench lock sbom audit
.PHONY: pin-base clean
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
EXTRA ?= cpu
DEMO ?= demo
JOBS ?= 2
# Percent of covct's lines that the tests of `make test-fast` run: tracing the slow ones would cost CI minutes.
FLOOR := 82
LOCK := docker/constraints-dev.txt
UV_COMPILE := uv pip compile --quiet --generate-hashes --no-header --no-annotate --python-version 3.11
ON_LINUX := --python-platform x86_64-manylinux_2_28

# Where it is set, as in many images, each of hundreds of processes compiles covct anew.
export PYTHONDONTWRITEBYTECODE :=

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(VENV)/.run: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "covct needs Python 3.11 or newer, got " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRA)]'
	touch $@

# By the lock, with hashes; --no-build-isolation, so that what builds covct comes from there too.
$(VENV)/.dev: $(VENV)/.run $(LOCK)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $(LOCK)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/python -m pip check
	touch $@

venv: $(VENV)/.dev ## install covct with its development tools into $(VENV)

demo: $(VENV)/.run ## install, segment a synthetic chest CT with the shipped weights, show the result
	rm -rf $(DEMO)
	$(BIN)/covct phantom $(DEMO)/phantom
	$(BIN)/covct scan $(DEMO)/phantom/dicom --out $(DEMO)/out
	$(BIN)/python examples/demo/compare.py $(DEMO)/phantom/truth.json $(DEMO)/out

docs: $(VENV)/.dev ## build the manual to docs/_build/html; a warning is an error
	$(BIN)/python -m sphinx -q -W --keep-going -n -b html -d docs/_build/doctrees docs docs/_build/html

test: $(VENV)/.dev ## install and run all tests, linters and the coverage floor included
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy & $(BIN)/mypy --config-file tests/mypy.ini; ended=$$?; wait $$! && exit $$ended
	$(BIN)/python -m pytest -q -n $(JOBS) --cov --cov-report= --cov-fail-under=$(FLOOR)

test-fast: $(VENV)/.dev ## install and run the tests that take no time and need nothing from outside
	$(BIN)/python -m pytest -q -n $(JOBS) -m 'not (slow or real or orthanc or browser)'

coverage: $(VENV)/.dev ## measure what all tests run of the code, the slow ones too, into htmlcov/
	COVCT_COVERAGE=all $(BIN)/python -m pytest -q -n $(JOBS) --cov --cov-report=html

test-random: $(VENV)/.dev ## run the property tests on new examples, other ones each time
	HYPOTHESIS_PROFILE=random $(BIN)/python -m pytest -q -n $(JOBS) $$(grep -lE 'import .*given|@given' tests/*.py)

lint: $(VENV)/.dev ## ruff, mypy and hadolint
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy --config-file tests/mypy.ini
	$(BIN)/hadolint docker/Dockerfile docker/Dockerfile.gpu docker/Dockerfile.slim

schemas: $(VENV)/.dev ## write the JSON Schemas, and the manual's rows of figures, anew from what they describe
	$(BIN)/python -m covct.commands.schemas
	$(BIN)/python -m covct.commands.figure_rows

image: ## build the container image (needs a docker engine)
	docker build -f docker/Dockerfile -t covct:cpu --build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null) .

image-buildah: ## build and run the image without an engine and without a registry (root, about 3 GB)
	bash docker/build-with-buildah.sh

bench: $(VENV)/.run ## measure speed and memory of a 300-slice series
	$(BIN)/python benchmarks/scan_throughput.py

# The heads of the files, which say what they are, stay: they are the lines before the first package.
lock: ## renew the locks of images, tools and build (pip install uv)
	for extras in 'cpu --extra workers' 'gpu --extra workers' slim; do \
	    bash docker/lock.sh docker/constraints-$${extras%% *}.txt $(UV_COMPILE) $(ON_LINUX) --extra $$extras pyproject.toml; done
	sed -n 's/^\(tensorflow-cpu==[^ ]*\).*/\1/p' docker/constraints-cpu.txt >.same-tensorflow
	bash docker/lock.sh $(LOCK) $(UV_COMPILE) --universal --extra cpu --extra dev --constraint .same-tensorflow pyproject.toml
	rm .same-tensorflow
	echo hatchling | bash docker/lock.sh docker/constraints-build.txt $(UV_COMPILE) $(ON_LINUX) -

sbom: $(VENV)/.dev ## write what is in the images as CycloneDX: one file an extra
	for name in cpu gpu slim; do $(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible \
	    --output-file covct-$$name.cdx.json docker/constraints-$$name.txt; done

audit: $(VENV)/.dev ## look up known holes in everything that is locked (asks the network)
	for name in cpu gpu slim dev build; do \
	    $(BIN)/pip-audit --disable-pip --require-hashes -r docker/constraints-$$name.txt || exit 1; done

pin-base: ## pin the images' base by the digest that it has today (docker with buildx; asks the network)
	bash docker/pin-base.sh docker/Dockerfile docker/Dockerfile.gpu docker/Dockerfile.slim

clean: ## remove what the targets above made
	rm -rf $(VENV) $(DEMO) .coverage htmlcov
