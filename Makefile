# Two commands do everything: `make demo` and `make test`. Each bootstraps .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo
SEED ?= 1
WORKERS ?= 2
STAMP := $(VENV)/.installed
# Spinning OpenMP threads slow a busy machine down five-fold; one thread per worker is set by the app itself.
export OMP_WAIT_POLICY = PASSIVE
export GOMP_SPINCOUNT = 0
export NIPYPE_NO_ET = 1
export NO_ET = 1

# The viewer of the reports, from npm; `make viewer` packs it again.
NIIVUE := 0.69.0
VIEWER := $(CURDIR)/pds_bids/data/viewer/niivue.umd.js.gz

.PHONY: demo test browser viewer lint docs install clean slurm descriptors

install: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(STAMP)
	rm -rf $(DEMO)
	$(BIN)/pds-bids-phantom $(DEMO)/data --participants 2 --groups NC,AD --missing dwi,bold --seed $(SEED)
	$(BIN)/pds-bids $(DEMO)/data $(DEMO)/out participant -w $(DEMO)/work

# The reports are tested in a browser. Where there is none and none can be installed, these tests are skipped.
browser:
	@for name in chromium chromium-browser google-chrome; do command -v $$name > /dev/null && exit 0; done; \
	{ [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium; } \
	> /dev/null 2>&1 || echo "no Chromium: the tests of the reports in a browser will be skipped"

viewer:
	cd "$$(mktemp -d)" && npm pack --silent @niivue/niivue@$(NIIVUE) && tar -xzf niivue-niivue-$(NIIVUE).tgz \
	&& gzip -n -9 -c package/dist/niivue.umd.js > $(VIEWER)

# Two processes of one thread each: threads gain little on two cores, and spin on a busy machine. In the order of
# the folders, the long tests of the app come first: otherwise one process waits for them at the end.
test: $(STAMP) browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=15

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

# What the tests of the batch scripts start a cluster of their own from; needs root.
slurm:
	(for program in slurmctld slurmd slurmdbd munged mariadbd; do command -v $$program > /dev/null || exit 1; done) || \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	  slurm-wlm slurmdbd munge mariadb-server > /dev/null; }

descriptors: $(STAMP)
	$(BIN)/python scripts/make_descriptors.py

# Every warning is an error; what is imported for the API takes about a minute.
docs: $(STAMP)
	rm -rf docs/api docs/_build
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -b html -W --keep-going -n -q docs docs/_build/html

clean:
	rm -rf $(VENV) $(DEMO) docs/api docs/_build
