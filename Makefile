# make demo           chat with the transformer on http://127.0.0.1:7860
# make test           run all tests
# make test-versions  run the tests that depend on other libraries, on the lowest and on the newest versions allowed
# make constraints    write the exact versions anew, from what is newest today
# make checkpoints    load, check and store again every checkpoint in space/checkpoints, and write its card anew
# make clean          remove the environments and what the tests left

PYTHON ?= python3
BIN = .venv/bin

demo: .venv/demo
	$(BIN)/python -m space.app

# Two processes with a thread each: many tests wait for a program to start, which leaves a core idle.
test: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-versions:
	PYTHON=$(PYTHON) .ci/versions

.venv/demo: pyproject.toml constraints.txt
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/test: pyproject.toml constraints.txt
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

# In an environment of its own, with the torch of before: the newest build can bring gigabytes of CUDA libraries.
constraints:
	rm -rf .venv-constraints && $(PYTHON) -m venv .venv-constraints
	.venv-constraints/bin/pip install --quiet "$$(grep ^torch== constraints.txt)" --editable ".[test]"
	(sed -n 1p constraints.txt; .venv-constraints/bin/pip freeze --exclude-editable | sed 's/+cpu//') > constraints.new
	mv constraints.new constraints.txt
	rm -rf .venv-constraints

CHECKPOINTS = $(notdir $(wildcard space/checkpoints/*))

checkpoints: .venv/demo
	for name in $(CHECKPOINTS); do \
		$(BIN)/python -m training.publish space/checkpoints/$$name --half --no-code --license apache-2.0 \
			--prepare space/checkpoints/$$name || exit 1; done

clean:
	rm -rf .venv .venv-* artifacts build *.egg-info .pytest_cache .ruff_cache .hypothesis

.PHONY: demo test test-versions constraints checkpoints clean
