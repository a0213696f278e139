# What a person starts; `make` alone lists it. Every target sets itself up: a virtual environment from requirements.lock, made
# with Python 3.11 and nothing else, and left alone as long as the lock and pyproject.toml hold what it was made from.

PYTHON3 ?= python3.11
python := .venv/bin/python
uv := .venv/bin/uv
installed := .venv/installed.sha256
together := --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder # a file at a time, in their order
export PYTHONUNBUFFERED = 1
unexport PYTHONDONTWRITEBYTECODE # where it is set, every start would compile again: torch alone costs seconds

.DEFAULT_GOAL := help
.PHONY: help run study serve circle curves stop status test test-slow check lock clean browser pictures setup install

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: setup ## the demo, from data to report [GROUP=production: models to serve] [PRESET=tiny|real] [DATA=folder of your sets] [PORT=4200]
	@$(python) -m flows.cli run $(if $(GROUP),--group '$(GROUP)') $(if $(PRESET),--preset '$(PRESET)') $(if $(DATA),--data '$(DATA)') $(if $(PORT),--port '$(PORT)')

study: setup ## what is claimed of Transformers, measured: half an hour [PRESET=study: up to three hours] [PORT=4200]
	@$(python) -m flows.cli run --group study $(if $(PRESET),--preset '$(PRESET)') $(if $(PORT),--port '$(PORT)')

serve: setup ## the models over HTTP, with a playground; first `make run GROUP=production` [PORT=8000]
	@$(python) -m flows.cli serve $(if $(PORT),--port '$(PORT)')

circle: setup ## serve, shift, retrain, try, promote, roll back: the whole circle in a folder of its own, a quarter of an hour
	@$(python) -m flows.circle

curves: setup ## curves of all training, live, in TensorBoard [PORT=6006]
	@$(python) -m tensorboard.main --logdir .store/checkpoints --port $(or $(PORT),6006)

stop: setup ## stop the servers and the worker that were started here
	@$(python) -m flows.cli stop

status: setup ## what runs, what ran, what is scheduled
	@$(python) -m flows.cli status

test: setup ## the tests, without the slow ones
	$(python) -m pytest -m 'not slow' $(together)

test-slow: setup browser ## the slow tests: killed workers, schedules, longer training
	$(python) -m pytest -m slow # one at a time: some wait for what they started, by the clock

check: setup ## ruff, pyright, the import contract, the stage contract
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m pyright
	.venv/bin/lint-imports
	$(python) tests/contracts/stage_deps.py

lock: setup ## requirements.lock anew from pyproject.toml
	$(uv) pip compile -q --system-certs --python-version 3.11 --all-extras --generate-hashes --no-emit-index-url --no-annotate \
		--no-header --upgrade pyproject.toml -o requirements.lock
	$(python) tests/contracts/stage_deps.py --write

clean: setup ## remove the clones under runs/ and the tools' caches; data, models, reports and the DVC cache stay
	@$(python) -m flows.cli stop
	rm -rf runs .pytest_cache .ruff_cache .import_linter_cache .hypothesis

pictures: setup browser ## docs/pictures anew, from a run's page and its report
	@$(python) docs/pictures.py

browser: # for pictures and browser tests; not needed to run anything
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -q && apt-get install -y -q --no-install-recommends chromium; } \
		|| { echo "chromium is missing: install it (Debian: apt-get install chromium)" >&2; exit 1; }

setup:
	@sha256sum --check --status $(installed) 2>/dev/null || $(MAKE) --no-print-directory install

install:
	@command -v $(PYTHON3) >/dev/null || { echo "$(PYTHON3) is missing: install Python 3.11, or name it: make PYTHON3=..." >&2; exit 1; }
	@echo "Installing the packages of requirements.lock into .venv (4.6 GB; minutes, by your line)"
	@test -x $(python) || $(PYTHON3) -m venv .venv
	@$(python) -m pip install -q --disable-pip-version-check 'uv>=0.13'
	@VIRTUAL_ENV=.venv $(uv) pip sync -q --system-certs --compile-bytecode --require-hashes requirements.lock
	@VIRTUAL_ENV=.venv $(uv) pip install -q --system-certs --no-deps --no-build-isolation --editable .
	@sha256sum requirements.lock pyproject.toml > $(installed)
