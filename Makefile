# make train   from nothing to a trained and evaluated model on real images, in minutes
# make test    the whole test suite
# Both make .venv once and use it again; needs Python >= 3.11 and make.

CHECK := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do $$p -c '$(CHECK)' 2>/dev/null && echo $$p && break; done)
VENV := .venv
STAMP := $(VENV)/.installed
RUN := runs/digits

.PHONY: help venv train test lint format clean

help:
	@sed -n 's/^# //p' Makefile | head -3

venv: $(STAMP)

# Installs again only when the list of packages changed.
$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" && $(PYTHON) -c '$(CHECK)' || \
		{ echo "error: no Python 3.11 or newer found: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "error: no venv module: apt install python3-venv" >&2; exit 1; }
	@echo "installing into $(VENV) (torch and torchvision are a few GB, once)"
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check torch torchvision
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $(STAMP)

train: $(STAMP)
	@$(VENV)/bin/dat-train experiment=digits
	@$(VENV)/bin/dat-eval ckpt=$(RUN)/checkpoints/best.pt
	@echo "run: $(RUN)   checkpoints: $(RUN)/checkpoints   curves: $(RUN)/curves.png   evaluation: $(RUN)/eval"

test: $(STAMP)
	@$(VENV)/bin/python -m pytest -n 2 --dist loadfile --cov --cov-report=term -q

lint: $(STAMP)
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/lint-imports

format: $(STAMP)
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

clean:
	rm -rf $(VENV) runs data/digits .pytest_cache .ruff_cache .import_linter_cache .coverage*
