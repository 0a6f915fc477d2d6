# One command each: `make book` builds the book, `make test` runs every check. Both start from a bare Python 3.11+ and reuse what is already there.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 2
# a notebook that waits for a network which another one trains leaves its core to a third
KERNELS ?= 3
# for a cell that hangs: the longest of those that do not took 96 s on the slowest machine so far
CELL_TIMEOUT ?= 600
# two workers with two torch threads each are several times slower on two cores than with one
export OMP_NUM_THREADS = 1
# hundreds of processes read the package: it is compiled once, also where the environment forbids it
export PYTHONDONTWRITEBYTECODE =

.DEFAULT_GOAL := help
.PHONY: help env book test test-unit test-notebooks test-book problem-sets lab serve lint format bench clean

help:  ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

$(VENV)/installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

env: $(VENV)/installed  ## create the virtual environment from the lock

book: env  ## execute every notebook and build the HTML book, warnings as errors
	$(BIN)/python book/build.py

test: test-unit test-notebooks test-book  ## unit tests, every notebook under nbval, then the built book in a browser

test-unit: env
	$(BIN)/python -m pytest tests --ignore=tests/book -n $(JOBS) -q

# book/generated holds the hand-outs of the problem sets, whose answers are missing on purpose; their sources are under notebooks/.
# keep_runs hands what was executed here to the book.
test-notebooks: env
	PYTHONPATH=book $(BIN)/python -m pytest -p keep_runs notebooks book --ignore=book/generated --nbval-lax --nbval-current-env --nbval-cell-timeout=$(CELL_TIMEOUT) -n $(KERNELS) --dist loadfile -q

test-book: book
	$(BIN)/python -m pytest tests/book -n $(JOBS) --dist loadgroup -q

problem-sets: env  ## release the problem sets; STUDENTS=roster.csv for numbers of their own, COURSE=folder, SETS="ps09"
	$(BIN)/python -m mathcore.assess release $(SETS) $(if $(STUDENTS),--students $(STUDENTS)) $(if $(COURSE),--course $(COURSE))

lab: env  ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks

serve: book  ## build the book and serve it on http://localhost:8000
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html 8000

lint: env  ## ruff over code and notebooks, mypy over the package
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: env  ## let ruff rewrite what it can, and strip the outputs of notebooks
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/jupyter nbconvert --clear-output --inplace notebooks/*.ipynb notebooks/problem_sets/*/*.ipynb book/*.ipynb

bench: env  ## measure the library beside its peers
	$(BIN)/python -m benchmarks

clean:  ## remove everything built, trained runs included; the virtual environment stays
	rm -rf _build book/generated
