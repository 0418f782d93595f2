# Landmark Lab. `make` alone lists the targets. GNU make 3.81 (the one of macOS) is enough.

VENV := .venv
BIN := $(VENV)/bin
SUPPORTED := 3.11 3.12 3.13 3.14
# Pass PYTHON to choose; otherwise the first that exists, runs and is supported is taken.
CANDIDATES := $(or $(PYTHON),python3.13 python3.12 python3.11 python3)
JOBS := 2
ARGS :=

# `complete` is written last and says what .venv holds and where: "cpu python3.12 /home/me/lab".
STAMP := $(VENV)/complete
HELD := $(shell cat $(STAMP) 2>/dev/null)
# GPU=1 asks for faiss on the GPU, GPU=0 for the CPU; without it .venv stays what it is.
FAISS := $(if $(GPU),$(if $(filter 0,$(GPU)),cpu,gpu),$(or $(firstword $(HELD)),cpu))
LOCK := $(if $(filter gpu,$(FAISS)),requirements-gpu.lock,requirements.lock)
# Empty if .venv has to be made from nothing: missing, interrupted, moved, of another Python or faiss.
READY := $(shell $(BIN)/python -c '' 2>/dev/null \
	&& test '$(HELD)' = '$(FAISS) $(or $(PYTHON),$(word 2,$(HELD))) $(CURDIR)' && echo yes)

# One target an experiment: experiments/factorized/faces.yaml is reproduce-factorized-faces.
EXPERIMENTS := $(sort $(shell find experiments -name '*.yaml' -not -path '*/sweeps/*' 2>/dev/null))
target_of = reproduce-$(subst /,-,$(patsubst experiments/%.yaml,%,$(1)))
BENCHMARKS := $(sort $(filter-out benchmarks/_%,$(wildcard benchmarks/*.py)))

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow lint bench lock clean FORCE

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' Makefile | awk -F'|' '{printf "%-14s %s\n", $$1, $$2}'
	@echo
	@echo "Settings: PYTHON=python3.12, GPU=1 (faiss on the GPU; GPU=0 goes back), JOBS=2 (test"
	@echo "processes), ARGS='...' (added to the command of demo, test, test-slow, lock, reproduce-*)."
	@echo "Each target first brings .venv up to date with the lock file."
	@echo
	@echo "Experiments:"
	$(if $(EXPERIMENTS),@printf '  %s\n' $(foreach e,$(EXPERIMENTS),$(call target_of,$(e))))

install: $(STAMP) ## make .venv and install the locked versions and this package (GPU=1: faiss on the GPU)

demo: $(STAMP) ## train on pictures it draws itself, evaluate, end with a report
	$(BIN)/landmark-lab train experiments/demo.yaml $(ARGS)

test: $(STAMP) ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -m 'not slow' -n $(JOBS) --dist loadfile $(ARGS)

test-slow: $(STAMP) ## run the tests that take minutes and download other versions
	$(BIN)/pytest -m slow $(ARGS)

lint: $(STAMP) ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p build/typing && ln -sfn ../../plugins build/typing/landmark_lab_plugins
	$(BIN)/mypy

bench: $(STAMP) ## measure the speed of the parts, as ratios
	@set -e; for script in $(BENCHMARKS); do echo "== $$script"; $(BIN)/python $$script; done

lock: | $(BIN)/uv ## resolve setup.cfg into the lock files again (ARGS=--upgrade: to the newest)
	$(call compile,requirements.lock,--extra cpu)
	$(call compile,requirements-gpu.lock,--extra gpu -c requirements.lock)

clean: ## remove .venv, build products and caches; runs/ stays
	rm -rf $(VENV) build dist *.egg-info src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

define reproduce
.PHONY: $(call target_of,$(1))
$(call target_of,$(1)): $$(STAMP)
	$$(BIN)/landmark-lab reproduce $(1) $$(ARGS)
endef
$(foreach e,$(EXPERIMENTS),$(eval $(call reproduce,$(e))))

# --universal: one file for every system and Python, by environment markers; --fork-strategy fewest:
# with one version of a library where possible, so that lint and tests say the same everywhere.
compile = UV_SYSTEM_CERTS=true UV_CUSTOM_COMPILE_COMMAND='make lock' $(BIN)/uv pip compile --quiet --universal \
	--fork-strategy fewest --no-annotate --python-version $(firstword $(SUPPORTED)) --extra pretrained \
	--extra worlds --extra keypoints --extra template --extra coco --extra export --extra tensorboard \
	--extra dev $(2) \
	$(ARGS) --output-file $(1) setup.cfg

# Sets $$python, or ends with the reason of every candidate, before anything is downloaded.
# Existing is not enough: a version manager's shim may run nothing, a system Python lack venv.
define choose_python
set -e; python=; why=; \
for candidate in $(CANDIDATES); do \
	version=$$($$candidate -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) \
		|| { why="$$why$$candidate is missing or does not run; "; continue; }; \
	case ' $(SUPPORTED) ' in \
		*" $$version "*) ;; \
		*) why="$$why$$candidate is Python $$version; "; continue;; \
	esac; \
	$$candidate -c 'import ensurepip, venv' 2>/dev/null \
		|| { why="$$why$$candidate lacks venv (Debian, Ubuntu: install python$$version-venv); "; continue; }; \
	python=$$candidate; break; \
done; \
if [ -z "$$python" ]; then \
	echo "Landmark Lab needs Python $(firstword $(SUPPORTED)) to $(lastword $(SUPPORTED)): $${why%; }." >&2; \
	echo "Install one, or name it: make PYTHON=/path/to/python3.12 ..." >&2; \
	exit 1; \
fi
endef

# The lock file also says which uv. Without one (a platform that uv has no build for) pip does it all.
define make_venv
rm -rf $(VENV); $$python -m venv $(VENV); \
$(BIN)/python -m pip install --quiet "$$(grep -s '^uv==' $(LOCK) || echo uv)" || echo "No uv: pip will install, slowly."
endef

$(BIN)/uv:
	@$(choose_python); $(make_venv)

# uv is six times faster than pip but does not read pip's settings: it is told pip's index. A second
# attempt goes on after a network failure (what was downloaded is kept), this time with the
# certificates that uv brings instead of the system's. Where uv fails, pip takes over.
# `complete` goes first and comes back last, so an interrupted installation starts afresh.
$(STAMP): $(LOCK) setup.cfg pyproject.toml $(if $(READY),,FORCE)
	@$(if $(READY),python='$(word 2,$(HELD))'; rm -f $(STAMP),$(choose_python); $(make_venv)); set -e; \
	echo "Installing $(LOCK) into $(VENV), $$($(BIN)/python --version); with CUDA's libraries 3 GB are downloaded."; \
	index=$$($(BIN)/python -m pip config list | sed -n "s/^.*\.index-url='\(.*\)'$$/\1/p" | head -n 1); \
	if [ -n "$$index" ]; then UV_DEFAULT_INDEX=$${UV_DEFAULT_INDEX:-$$index}; export UV_DEFAULT_INDEX; fi; \
	sync="$(BIN)/uv pip sync --python $(BIN)/python $(LOCK)"; \
	UV_SYSTEM_CERTS=true $$sync || UV_SYSTEM_CERTS=false $$sync || $(BIN)/python -m pip install -r $(LOCK); \
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .; \
	echo "$(FAISS) $$python $(CURDIR)" > $(STAMP)

FORCE:
