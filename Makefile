# Two commands do everything on a fresh clone with Python 3.11 or newer, make and a package index:
#   make reproduce   set up, run every notebook in the cpu profile into results/cpu/, and write results/README.md
#   make test        set up, and run all checks
PYTHON ?= python3
BIN := .venv/bin
# What is installed beside the package: .ci/run adds engines and the harness, whose tests are skipped without.
EXTRAS ?= dev
# Of two processes on two cores, and of those that they start: with two threads each they wait for one another.
ONE_THREAD := OMP_NUM_THREADS=1

.PHONY: reproduce test coverage lab clean

reproduce: .venv/installed
	$(BIN)/longrope-lab run all --profile cpu
	$(BIN)/longrope-lab report

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/nbstripout --verify notebooks/*.ipynb
	$(ONE_THREAD) $(BIN)/pytest --numprocesses 2 --dist worksteal

coverage: .venv/installed
	$(ONE_THREAD) $(BIN)/pytest --numprocesses 2 --dist worksteal --cov --cov-report=term:skip-covered

# What it saves of the notebooks is free of outputs: git sees no change.
lab: .venv/installed
	$(BIN)/jupyter lab notebooks --FileContentsManager.pre_save_hook=longrope_lab.runs.notebooks.without_outputs

.venv/installed: pyproject.toml constraints.txt
	@echo "Installing everything into .venv: it took 138 s and 2.2 GB with PyTorch's CPU build."
	@echo "On Linux, pip takes the larger CUDA build: docs/models.md shows how to have the other."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$(EXTRAS)]'
	$(BIN)/python -m pip install --quiet --only-binary :all: -c constraints.txt xllamacpp || \
	  echo "llama.cpp could not be installed: notebook 12 leaves out what it computes, and says so."
	touch $@

clean:
	rm -rf .venv results/scratch notebooks/results .pytest_cache .mypy_cache .ruff_cache .coverage
