# make demo           chat with the transformer on http://127.0.0.1:7860
# make test           run all tests
# make checkpoints    write code and card anew beside the weights in space/checkpoints
# make clean          remove the environment and what the tests left

PYTHON ?= python3
BIN = .venv/bin

demo: .venv/demo
	$(BIN)/python -m space.app

# Two processes with a thread each: many tests wait for a program to start, which leaves a core idle.
test: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# torch comes first and by itself: from an open range pip would take the newest build, which can bring gigabytes of
# CUDA libraries, also where a CPU build of this version lies at hand. Where it cannot be had, the range decides.
.venv/torch:
	$(PYTHON) -m venv .venv
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/pip install --quiet torch==2.13.0 || true
	touch $@

.venv/demo: .venv/torch pyproject.toml
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/test: .venv/torch pyproject.toml
	$(BIN)/pip install --quiet --editable ".[test]"
	touch $@

CHECKPOINTS = $(notdir $(wildcard space/checkpoints/*))

checkpoints: .venv/demo
	for name in $(CHECKPOINTS); do \
		$(BIN)/python -m training.publish space/checkpoints/$$name --half --prepare space/checkpoints/$$name; done

clean:
	rm -rf .venv artifacts build *.egg-info .pytest_cache .ruff_cache .hypothesis

.PHONY: demo test checkpoints clean
