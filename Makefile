# make train   from nothing to a trained and evaluated model on real images, in minutes
# make demo-dense   detection and segmentation of handwritten digits in scenes, in minutes
# make test    the test suite, in minutes
# make coverage   the same, with the covered lines of dat_train/; fails under 90 %, takes 1.7 times as long
# make ablations   every ablation of the papers on the digits, and their table; under 20 minutes on two cores
# make comparison   a small DAT against a Swin of the same size on the digits, five seeds each; minutes on two cores
# make test-long   the tests with real kills, torchrun, full disks and exports; CI runs them too
# make test-gpu    the tests that need a CUDA device
# make test-demo   the example with Gradio, in an environment of its own; CI runs it too
# make lint    style, and the import rules between packages
# All targets create .venv once and reuse it. They need Python >= 3.11 and make.

# the newest Python that can create a virtual environment
CAN := import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3.14 python3.13 python3.12 python3.11 python3; do \
	$$python -c '$(CAN)' 2>/dev/null && echo $$python && break; done)
VENV := .venv
# stamps of installed packages: for users, and for tests and lint; the number is the checksum of pyproject.toml
NUMBER := $(shell cksum < pyproject.toml | cut -d ' ' -f 1)
USER_STAMP := $(VENV)/.installed-$(NUMBER)
STAMP := $(VENV)/.installed-dev-$(NUMBER)
# Gradio requires an older Pillow than the other packages: a second environment on top of the first
DEMO := .venv-demo
DEMO_STAMP := $(DEMO)/.installed-$(NUMBER)
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
RUNS ?= runs

.PHONY: demo-dense coverage test-long test-gpu test-demo help venv train ablations comparison test lint format clean

help:
	@sed -n 's/^# make/make/p' Makefile

venv: $(STAMP)

define install
	@$(or $(PYTHON),false) -c '$(CAN)' 2>/dev/null || { \
		echo "error: no Python >= 3.11 with its venv module; Debian, Ubuntu: apt install python3-venv;" \
			"elsewhere: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PIP) --version >/dev/null 2>&1 || { rm -rf $(VENV); $(PYTHON) -m venv $(VENV); }
	@echo "installing $(2) into $(VENV), once: a few minutes and a few GB, most of it torch"
	@$(PIP) install --quiet -e '$(1)'
	@rm -f $(3)
	@touch $(USER_STAMP)
endef

$(USER_STAMP):
	$(call install,.,dat-train,$(VENV)/.installed*)

$(STAMP): $(USER_STAMP)
	$(call install,.[dev],packages for tests and lint,$(VENV)/.installed-dev*)
	@touch $@

$(DEMO_STAMP): $(STAMP)
	@echo "installing Gradio into $(DEMO), once"
	@$(VENV)/bin/python -m venv --clear $(DEMO)
	@$(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> $$($(DEMO)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/base.pth
	@$(DEMO)/bin/python -m pip --disable-pip-version-check install --quiet -e '.[demo]'
	@touch $@

train: $(USER_STAMP)
	@$(VENV)/bin/dat-train experiment=digits runs_dir=$(RUNS)
	@$(VENV)/bin/dat-eval ckpt=$(RUNS)/digits/checkpoints/best.pt
	@echo
	@echo "the run         $(RUNS)/digits"
	@echo "curves          $(RUNS)/digits/curves.png"
	@echo "best weights    $(RUNS)/digits/checkpoints/best.pt"
	@echo "evaluation      $(RUNS)/digits/eval"

SCENES := "data/digit_scenes/images/val/000[0369].png"

demo-dense: $(STAMP)
	@for task in detection segmentation; do \
		run=$(RUNS)/digit_scenes_$$task; \
		$(VENV)/bin/dat-train experiment=digit_scenes_$$task runs_dir=$(RUNS) && \
		$(VENV)/bin/dat-eval ckpt=$$run && \
		$(VENV)/bin/dat-visualize ckpt=$$run image=$(SCENES) page=false || exit 1; \
	done
	@echo
	@echo "detection       $(RUNS)/digit_scenes_detection/eval/detections.png"
	@echo "segmentation    $(RUNS)/digit_scenes_segmentation/eval/worst.png"
	@echo "traced points   $(RUNS)/digit_scenes_detection/visualize/0009/scene.png"

# the two seeds in parallel, one core each
ablations: $(USER_STAMP)
	@for seed in 0 1; do \
		OMP_NUM_THREADS=1 $(VENV)/bin/dat-train --multirun experiment=ablations seed=$$seed data.workers=0 \
			runs_dir=$(RUNS) & runs="$$runs $$!"; \
	done; for run in $$runs; do wait $$run || exit 1; done
	@$(VENV)/bin/python scripts/ablation_table.py $(RUNS)

# the two models in parallel, one core each
comparison: $(USER_STAMP)
	@for model in dat swin; do \
		OMP_NUM_THREADS=1 $(VENV)/bin/dat-train --multirun experiment=comparison_$$model data.workers=0 \
			runs_dir=$(RUNS) & runs="$$runs $$!"; \
	done; for run in $$runs; do wait $$run || exit 1; done
	@$(VENV)/bin/python scripts/comparison_table.py $(RUNS) comparison_dat comparison_swin
	@$(VENV)/bin/dat-report $(RUNS)/comparison_dat-seed_0 $(RUNS)/comparison_swin-seed_0

test: $(STAMP)
	@$(VENV)/bin/python -m pytest --numprocesses 2 --dist loadfile

coverage: $(STAMP)
	@$(VENV)/bin/python -m pytest --numprocesses 2 --dist loadfile --cov --cov-report term

test-long: $(STAMP)
	@$(VENV)/bin/python -m pytest --numprocesses 2 --dist loadfile -m 'long and not slow and not gpu and not demo'

test-gpu: $(STAMP)
	@$(VENV)/bin/python -m pytest -m gpu

test-demo: $(DEMO_STAMP)
	@$(DEMO)/bin/python -m pytest -m demo tests/test_examples.py

lint: $(STAMP)
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/lint-imports

format: $(STAMP)
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

clean:
	rm -rf $(VENV) $(DEMO) dist .pytest_cache .ruff_cache .import_linter_cache .coverage*
