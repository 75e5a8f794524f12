# Every target sets itself up: python, pip, make and the venv module are all it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# mypy takes each first-level package with what is in it; naming an inner one again would be an error.
PACKAGES := $(shell sed -n '/^packages = \[/,/^\]/s/^ *"\(tertium\.[a-z_]*\)",/-p \1/p' pyproject.toml)

# The tests start hundreds of short processes: none is to compile the package anew, nor to start BLAS threads that spin.
unexport PYTHONDONTWRITEBYTECODE
test mutants long torture: export OPENBLAS_NUM_THREADS := 1

.PHONY: demo test mutants long notebook lint bench torture clean
.DELETE_ON_ERROR:

$(VENV)/demo.stamp: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo]'
	touch $@

$(VENV)/dev.stamp: $(VENV)/demo.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/demo.stamp
	$(BIN)/tertium demo digits $(ARGS)

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -n 4 --dist loadgroup $(ARGS)

mutants: $(VENV)/dev.stamp
	TERTIUM_MUTANTS=1 $(BIN)/python -m pytest -n 3 tests/mutants tests/sequences/test_sequence_mutants.py $(ARGS)

long: $(VENV)/dev.stamp
	$(BIN)/python -m tertium.simulation.torture --seeds 60:500 --jobs 2
	$(BIN)/python -m tertium.simulation.torture --seeds 8:20 --jobs 2 --family "hostile model owner with an accomplice"
	TERTIUM_LONG=1 $(BIN)/python -m pytest -n 3 tests/simulation/test_crash_points.py -k in_any_mode $(ARGS)
	TERTIUM_LONG=1 $(BIN)/python -m pytest -n 3 --dist loadgroup tests/sequences/test_random_sequences.py \
		tests/roles/test_stopped_owner.py tests/demo/test_demo_runs.py tests/demo/test_demo_mnist.py \
		tests/docs/test_own_task.py $(ARGS)

notebook: $(VENV)/dev.stamp
	TERTIUM_NOTEBOOK=1 $(BIN)/python -m pytest tests/notebook/test_tutorial_notebook.py $(ARGS)

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p build/mypy
	ln -sfn ../.. build/mypy/tertium
	MYPYPATH=build/mypy $(BIN)/mypy -m tertium $(PACKAGES)
	$(BIN)/lint-imports

bench: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks $(ARGS)

torture: $(VENV)/dev.stamp
	$(BIN)/python -m tertium.simulation.torture --seeds 0:10000 --jobs 2 $(ARGS)
	$(BIN)/python -m tertium.simulation.torture --seeds 0:10000 --jobs 2 \
		--family "hostile model owner with an accomplice" $(ARGS)
	$(BIN)/python tests/mutants/mutants.py --jobs 2
	TERTIUM_TORTURE=1 $(BIN)/python -m pytest -n 4 tests/e2e/test_kills.py tests/e2e/test_committee_kills.py \
		tests/e2e/test_deaths_for_good.py tests/e2e/test_memory_images.py tests/simulation/test_crash_points.py \
		tests/simulation/test_conspiracy.py tests/protocol/test_ledger_file.py tests/audit/test_seeded_runs.py \
		tests/demo/test_halfplane_demo.py
	$(BIN)/python tests/sequences/sequence_run.py --sequences 0:1000000 --jobs 2

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
