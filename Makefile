# Every target makes .venv first if it is missing. SCALE picks config/<scale>.yaml; SETTINGS overrides its
# top-level keys, for example SETTINGS=results_from=published.
SCALE ?= laptop
CORES ?= all
PYTHON ?= python3
BIN := .venv/bin
# The locks name every package with its hash, so nothing is resolved and nothing else comes in.
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check --prefer-binary --no-deps

.PHONY: figures paper report manual test lint format golden mutants bench showcase lock bill clean FORCE

figures: .venv/ready ## Every figure and table of the scale
	@PATH="$(CURDIR)/$(BIN):$$PATH" snakemake --cores $(CORES) figures --config scale=$(SCALE) $(SETTINGS)

paper: .venv/ready ## The replication report of the scale, paper/<scale>/paper.pdf
	@PATH="$(CURDIR)/$(BIN):$$PATH" snakemake --cores $(CORES) paper --config scale=$(SCALE) $(SETTINGS)

report: paper ## All of it as one HTML page that works offline, results/<scale>/report.html
	@PATH="$(CURDIR)/$(BIN):$$PATH" snakemake --cores $(CORES) figures paper \
	  --configfile config/$(SCALE).yaml --config scale=$(SCALE) $(SETTINGS) --report results/$(SCALE)/report.html
	@echo "results/$(SCALE)/report.html"

manual: .venv/docs ## The manual as pages that work offline, site/index.html
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict && echo "site/index.html"

# One file, such as results/laptop/cells/language/dense/runs.parquet; the path names the scale.
results/% figures/% paper/%: .venv/ready FORCE
	@PATH="$(CURDIR)/$(BIN):$$PATH" snakemake --cores $(CORES) $@ \
	  --config scale=$(word 2,$(subst /, ,$@)) $(SETTINGS)

test: .venv/ready ## The test suite; it runs the whole pipeline at smoke scale
	@PATH="$(CURDIR)/$(BIN):$$PATH" pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

golden: .venv/ready ## Record the golden study again, after a change that is meant to change results
	@$(BIN)/python tests/golden/record.py

mutants: .venv/ready ## Changes of the numerics that no test notices; for example ARGS='--again --only train/'
	@OMP_NUM_THREADS=1 $(BIN)/python tests/mutants/run.py $(ARGS)

bench: .venv/ready ## Time the steps against others and floors; for example ARGS='layers --seconds 5'
	@PATH="$(CURDIR)/$(BIN):$$PATH" OMP_NUM_THREADS=1 $(BIN)/python bench/run.py $(ARGS)

lint: .venv/ready ## Style and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/snakefmt --check Snakefile workflow

format: .venv/ready ## Rewrite the sources in the project's style
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format . && $(BIN)/snakefmt Snakefile workflow

showcase: .venv/ready ## The README's pictures and verdicts, from the published tables
	@PATH="$(CURDIR)/$(BIN):$$PATH" snakemake --cores $(CORES) figures --config results_from=published
	@mkdir -p docs/images && cp $(addprefix figures/laptop/language/,initialisation.png posthoc.png) docs/images/
	@test ! -d published/methods || { PATH="$(CURDIR)/$(BIN):$$PATH" snakemake --cores $(CORES) methods \
	  --config results_from=published && cp figures/methods/language/leaderboard.png docs/images/; }
	@$(BIN)/lowrank reference

lock: .venv-lock/ready ## Rewrite the locks and their bill after a change of pyproject.toml; UPGRADE=--upgrade renews
	@PATH="$(CURDIR)/.venv-lock/bin:$$PATH" python tools/lock.py $(UPGRADE)

bill: .venv/docs .venv-lock/ready ## docs/packages.json (CycloneDX) and docs/packages.md: every package with its licence
	@.venv-lock/bin/python tools/bill.py $(BIN)/python

clean: ## Remove results and figures, but not the environment
	rm -rf results figures/*/ paper/*/ .snakemake

.venv/ready: pyproject.toml requirements.lock requirements-cpu.lock requirements-torch.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null || \
	  { echo "lowrank needs Python 3.11, 3.12 or 3.13, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true): name another, for example make PYTHON=python3.12." >&2; exit 2; }
	@echo "Installing into .venv (once; a few minutes)"
	@$(PYTHON) -m venv .venv
	@{ $(INSTALL) -r requirements.lock && \
	  { $(INSTALL) -r requirements-cpu.lock 2>/dev/null || $(INSTALL) -r requirements-torch.lock; } && \
	  $(INSTALL) --no-build-isolation -e .; } || \
	  { echo "Installing failed: the lines above say which package; one without a wheel for this platform needs a C compiler (Debian: apt-get install gcc python3-dev)." >&2; exit 2; }
	@touch $@

# Tools that write the locks and the bill of materials; nothing else needs them.
.venv-lock/ready: tools/lock.txt
	@$(PYTHON) -m venv --clear .venv-lock
	@.venv-lock/bin/pip install --quiet --disable-pip-version-check -r tools/lock.txt
	@touch $@

.venv/docs: .venv/ready requirements-docs.lock
	@$(INSTALL) -r requirements-docs.lock && touch $@

.venv/trackers: .venv/ready requirements-trackers.lock
	@$(INSTALL) -r requirements-trackers.lock && touch $@

# The Slurm plugin apart from .venv: with it installed but no Slurm reachable, every snakemake call takes 10 s longer.
.venv-slurm/ready: .venv/ready requirements-slurm.lock
	@$(BIN)/python -m venv --without-pip --clear .venv-slurm
	@echo "import site; site.addsitedir('$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')" \
	  > "$$(.venv-slurm/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/lowrank.pth"
	@$(BIN)/pip --python .venv-slurm/bin/python install --quiet --disable-pip-version-check --no-deps -r requirements-slurm.lock
	@touch $@
