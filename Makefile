# `make demo` and `make test` create .venv, install what they need and run; a second call installs nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Every room, and every file of medjax that is a room of its own; command lines have --help instead.
ROOMS := $(subst /,.,$(patsubst %/__init__.py,%,$(wildcard medjax/*/__init__.py kernels/__init__.py)))
FILES := $(subst /,.,$(basename $(filter-out medjax/__% medjax/cli.py,$(wildcard medjax/*.py))))

.PHONY: demo test doctest test-slow test-processors test-newest lint types docs clean

demo: $(VENV)/demo.stamp
	$(BIN)/python -m experiments.learn2synth demo --workdir runs/demo

test: $(VENV)/test.stamp
	$(BIN)/python -m pytest -n 2

# The examples compile as the tests do: quickly rather than well. The one file of NVFlare has none.
doctest: $(VENV)/test.stamp
	$(BIN)/python -m pytest -p tests.conftest --doctest-modules medjax kernels experiments \
	  --ignore medjax/federated/remote.py

# Slow tests run the programs that ship: with the compiler's optimisations.
test-slow: $(VENV)/test.stamp
	XLA_FLAGS="--xla_backend_optimization_level=3 $(XLA_FLAGS)" $(BIN)/python -m pytest -m slow

# The same suite as other processors would run it: results must not hang on the last bit.
test-processors: $(VENV)/test.stamp
	for kernel in Haswell SkylakeX; do for isa in AVX2 AVX512; do \
	  echo "BLAS kernel $$kernel, XLA $$isa"; \
	  OPENBLAS_CORETYPE=$$kernel XLA_FLAGS="--xla_cpu_max_isa=$$isa $(XLA_FLAGS)" \
	  JAX_ENABLE_COMPILATION_CACHE=false $(BIN)/python -m pytest -n 2 || exit 1; \
	done; done

# The suite with the newest releases that this Python can get, in an environment of its own.
test-newest:
	$(PYTHON) -m venv $(VENV)-newest
	$(VENV)-newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable '.[test]'
	$(VENV)-newest/bin/python -m pytest -n 2

lint: $(VENV)/lint.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/lint.stamp $(VENV)/test.stamp
	$(BIN)/pyrefly check

# A name in `__all__` that does not resolve is an error; tests/test_docs.py checks names in the text.
docs: $(VENV)/docs.stamp
	$(BIN)/python -W error::UserWarning -m pdoc -d google -o build/docs $(ROOMS) $(FILES)
	@echo "open build/docs/index.html"

clean:
	rm -rf $(VENV) $(VENV)-newest build runs

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "medjax needs Python 3.11 or newer, got $$($(PYTHON) --version 2>&1); run: make PYTHON=python3.11 ..."; exit 2; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "could not create $(VENV); on Debian first run: apt-get install python3-venv"; exit 2; }

$(VENV)/%.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@
