# Everything runs from .venv, which is made from the lock when first needed.
PYTHON ?= python3
BIN := .venv/bin
NBCONVERT := $(BIN)/jupyter nbconvert --config nbconvert_config.py
READY := .venv/.made-from-the-lock
REPORT := report
# TensorFlow only reads the data: no start-up log.
export TF_CPP_MIN_LOG_LEVEL := 3
export TF_ENABLE_ONEDNN_OPTS := 0

.PHONY: help report test notebook execute benchmark exercise mark lock clean distclean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

report: $(REPORT)/bernoulli_em.html ## run the notebook and write its HTML report
	@echo "The report is $<"

test: $(READY) ## run the tests
	$(BIN)/python -m pytest tests

notebook: $(READY) ## open the notebook in JupyterLab
	$(BIN)/jupyter lab bernoulli_em.ipynb

execute: $(READY) ## run the notebook in place, to renew its outputs and figures/
	$(NBCONVERT) --to notebook --execute --inplace \
		--ReadmePictures.folder=figures bernoulli_em.ipynb

benchmark: $(READY) ## time EM beside a yardstick and a plain version
	$(BIN)/python tests/benchmark.py

exercise: $(READY) ## make the exercise, Part 1 without its answers, to hand out
	mkdir -p exercise && cp -r data figures requirements.txt exercise
	$(BIN)/python tests/exercise.py bernoulli_em.ipynb exercise/bernoulli_em.ipynb

mark: SECONDS := 60 # for each test
mark: $(READY) ## mark a solution: make mark NOTEBOOK=path/to/theirs.ipynb
	$(if $(NOTEBOOK),,$(error name a notebook: make mark NOTEBOOK=path/to/theirs.ipynb))
	@$(BIN)/python -m pytest tests/test_em.py --notebook="$(NOTEBOOK)" --timeout=$(SECONDS) \
		-vv --no-header --tb=no --assert=plain

lock: $(READY) ## renew requirements.txt from environment.yml
	$(BIN)/python -m pip install --quiet uv
	sed -n 's/^      - \([a-z]\)/\1/p' environment.yml > .venv/environment.in
	$(BIN)/uv pip compile --universal --python-version 3.11 --fork-strategy fewest \
		--upgrade --custom-compile-command "make lock" --quiet \
		--output-file requirements.txt .venv/environment.in

clean: ## delete the report and what else was built
	rm -rf $(REPORT) exercise .pytest_cache .ruff_cache tests/__pycache__

distclean: clean ## delete the environment, too
	rm -rf .venv

$(REPORT)/bernoulli_em.html: bernoulli_em.ipynb nbconvert_config.py $(READY)
	@echo "Running the notebook (two or three minutes)"
	$(NBCONVERT) --to html --execute --output-dir $(REPORT) bernoulli_em.ipynb

$(READY): requirements.txt
	@$(PYTHON) -c 'import sys, ensurepip, venv; \
	sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null || { \
	echo "$(PYTHON) is not Python 3.11, 3.12 or 3.13 with its venv module: install" \
	"one (Debian: python3-venv) or name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "Making .venv and installing requirements.txt into it (a minute or two, once)"
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@
