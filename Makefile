# Everything runs from .venv, which is made from the lock when first needed.
PYTHON ?= python3
BIN := .venv/bin
# Programs run as modules: the scripts in .venv/bin break when the folder is moved or renamed.
RUN := "$(BIN)/python"
NBCONVERT := $(RUN) -m nbconvert --config nbconvert_config.py
# With an empty configuration: pytest would look for one in the folders above, too.
PYTEST := $(RUN) -m pytest --config-file=/dev/null --rootdir=.
READY := .venv/.made-from-the-lock
SETTINGS := .venv/settings
REPORT := report
RUNNING := $(REPORT)/running
# Python's arguments to lock what the shell has open as 9, after waiting for whoever has it;
# the lock lasts as long as the shell. Where the file system can't lock, we go on without.
LOCK := -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)' 2>/dev/null
# TensorFlow only reads the data: no start-up log.
export TF_CPP_MIN_LOG_LEVEL := 3
export TF_ENABLE_ONEDNN_OPTS := 0

# What a user has set for other work stays outside: Python's and pytest's variables, other
# kernels, the look of figures, and where pip installs to.
unexport $(filter PYTHON% PYTEST_%,$(.VARIABLES))
unexport JUPYTER_PATH JUPYTER_PREFER_ENV_PATH MPLBACKEND PIP_TARGET PIP_PREFIX
export MATPLOTLIBRC := /dev/null
export PIP_USER := no
# So do settings of Jupyter and IPython, but not from JupyterLab, which is the user's.
ifeq ($(filter notebook,$(MAKECMDGOALS)),)
unexport JUPYTER_CONFIG_PATH
export JUPYTER_CONFIG_DIR := $(CURDIR)/$(SETTINGS)
export IPYTHONDIR := $(CURDIR)/$(SETTINGS)
endif
# The environment would get it expanded, and a path may hold a dollar sign.
unexport NOTEBOOK

.PHONY: help report test notebook execute benchmark exercise mark lock clean distclean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

report: $(REPORT)/bernoulli_em.html ## run the notebook and write its HTML report
	@echo "The report is $<"

test: $(READY) ## run the tests
	$(PYTEST) tests

notebook: $(READY) ## open the notebook in JupyterLab
	$(RUN) -m jupyterlab $(if $(filter 0,$(shell id -u)),--allow-root) bernoulli_em.ipynb

execute: $(READY) ## run the notebook in place, to renew its outputs and figures/
	$(NBCONVERT) --to notebook --execute --inplace \
		--ReadmePictures.folder=figures bernoulli_em.ipynb

benchmark: $(READY) ## time EM beside a yardstick and a plain version
	$(RUN) tests/benchmark.py

exercise: $(READY) ## make the exercise, Part 1 without its answers, to hand out
	$(RUN) tests/exercise.py bernoulli_em.ipynb exercise

mark: SECONDS := 60 # for each test
mark: $(READY) ## mark a solution: make mark NOTEBOOK=path/to/theirs.ipynb
	$(if $(value NOTEBOOK),,$(error name a notebook: make mark NOTEBOOK=path/to/theirs.ipynb))
	@$(PYTEST) tests/test_em.py --notebook='$(subst ','\'',$(value NOTEBOOK))' \
		--timeout=$(SECONDS) -vv -rfEs --no-header --tb=no --assert=plain

lock: $(READY) ## renew requirements.txt from environment.yml
	$(RUN) -m pip install --quiet uv
	sed -n 's/^      - \([a-z]\)/\1/p' environment.yml > .venv/environment.in
	"$(BIN)/uv" pip compile --universal --python-version 3.11 --fork-strategy fewest \
		--upgrade --custom-compile-command "make lock" --quiet \
		--output-file requirements.txt .venv/environment.in

clean: ## delete the report and what else was built
	rm -rf $(REPORT) exercise .pytest_cache .ruff_cache tests/__pycache__

distclean: clean ## delete the environment, too
	rm -rf .venv

# One run at a time; whoever waited for it needs none. Its files are moved to $(REPORT) when it
# is done, the report last, and dated at its start: what was changed meanwhile is newer.
$(REPORT)/bernoulli_em.html: bernoulli_em.ipynb nbconvert_config.py $(READY)
	@echo "Running the notebook (about two minutes)"
	@mkdir -p $(REPORT) $(SETTINGS)
	@exec 9< $(REPORT); $(RUN) $(LOCK); \
	if test -e $@ && test -z "$$(find $^ -newer $@ 2>/dev/null)"; then exit; fi; \
	rm -rf $(RUNNING) && mkdir $(RUNNING) && touch $(RUNNING)/started && \
	$(NBCONVERT) --log-level WARN --to html --execute --output-dir $(RUNNING) \
		bernoulli_em.ipynb && \
	touch -r $(RUNNING)/started $(RUNNING)/bernoulli_em.html && \
	mv $(RUNNING)/bernoulli_em.ipynb $(RUNNING)/bernoulli_em.html $(REPORT) && \
	rm -r $(RUNNING)

$(READY): requirements.txt
	@$(PYTHON) -c 'import sys, ensurepip, venv; \
	sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null || { \
	echo "$(PYTHON) is not Python 3.11, 3.12 or 3.13 with its venv module: install" \
	"one (Debian: python3-venv) or name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "Making .venv and installing requirements.txt into it (a minute or two, once)"
	@exec 9< .; $(PYTHON) $(LOCK); \
	if test $@ -nt $<; then exit; fi; \
	$(PYTHON) -m venv --clear .venv && \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $< && \
	touch $@
