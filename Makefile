# casework: `make` lists the verbs. Everything is made inside this folder; no verb but `test` needs anything beyond Python.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
CONFIG ?=
TRAIN := .venv-train
PRESET ?= quick
DEBIAN := chromium dcmtk dicom3tools fonts-droid-fallback libfaketime libpixelmed-java orthanc orthanc-dicomweb pixelmed-apps poppler-utils postgresql redis-server strace
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo run test check bench bench-gpu bench-reliability corpora advisories twin matrix evidence viewers train traintest openapi up e2e-compose lock docs system clean

help: ## list the verbs
	@grep -E '^[a-z0-9-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.runtime ## send a three-modality case through the whole service and fetch the results (demo-out/)
	$(PY) -m tests.demo

run: $(VENV)/.runtime ## keep the service up: DICOM AE CMAN on 11112, REST and status page on 8000, loopback
	$(VENV)/bin/casework serve $(if $(CONFIG),--config $(CONFIG))

test: system $(VENV)/.test check ## install what the tests need, then run all of them
	$(PY) -m coverage erase
	$(PY) -m coverage run -m pytest -n 3 --dist loadfile $(ARGS)
	$(PY) -m coverage combine -q
	$(PY) -m coverage report --skip-covered

check: $(VENV)/.test ## format, lint, types, import rules, contract and generated documents
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo
	$(PY) -m tests.docs --check

viewers: system $(VENV)/.test ## what OHIF, Orthanc and dcmtk show of the results, with pictures (docs/viewers.md); needs CASEWORK_SHARED
	$(PY) -m tests.viewers $(ARGS)

bench: system $(VENV)/.test ## every figure of docs/benchmarks.md, side by side (about 15 minutes)
	$(PY) -m tests.bench $(ARGS)

bench-reliability: system $(VENV)/.test ## break the service on purpose, F01 to F43 (ONLY="F01 F09", SCALE=ci|small|full, KEEP=1 for docs/reliability.md)
	$(PY) -m tests.bench.reliability $(ONLY) --scale $(or $(SCALE),small) $(if $(KEEP),--keep) $(ARGS)

corpora: $(VENV)/.test ## fetch other people's hostile DICOM files (1,386, never committed; ARGS="--mirrors FOLDER" or --check)
	$(PY) -m tests.corpora $(ARGS)

advisories: $(VENV)/.test ## compare all lock files with two databases of known vulnerabilities (docs/security-checks.md)
	$(PY) -m tests.advisories $(ARGS)

bench-gpu: $(VENV)/.test ## what each engine of this machine does: times, parity, memory, cold start (under 8 minutes; says what is missing)
	$(PY) -m tests.bench.gpu $(ARGS)

twin: $(TRAIN)/.ready ## the half-precision twin of the package that GPUs run (models/cman-fp16; ADR 17)
	PYTHONPATH=. $(TRAIN)/bin/python -m models.cman.twin --out models/cman-fp16

evidence: $(VENV)/.test ## measure the shipped weights on held-out phantoms, into docs/evidence (about 20 minutes)
	$(PY) -m models.cman.evidence $(ARGS)
	$(PY) -m models.cman.manual

train: $(TRAIN)/.ready ## train CMAN from phantoms in an environment of its own (PRESET=quick: an hour on two cores; gpu, full)
	PYTHONPATH=. $(TRAIN)/bin/python -m models.cman.everything --preset $(PRESET) $(ARGS)

traintest: $(TRAIN)/.ready ## the tests that need torch, onnx and TensorRT
	PYTHONPATH=. $(TRAIN)/bin/python -m pytest -q models/tests $(ARGS)

matrix: system $(VENV)/.test ## every kind of result object through every DICOM validator (half an hour; needs ../shared)
	$(PY) -m tests.conformance.matrix $(ARGS)

openapi: $(VENV)/.test ## validate openapi/openapi.yaml and compare it with the application
	$(PY) -m pytest -q tests/api/test_contract.py

up: ## the service in containers (docker compose; PROFILES="pacs viewer" adds a PACS and OHIF)
	@sh deploy/secrets.sh
	docker compose $(addprefix --profile ,$(PROFILES)) up --build

e2e-compose: $(VENV)/.test ## build the images, start a hospital in a box, restart each container under load
	$(PY) -m tests.compose

lock: ## resolve all dependencies again (pyproject.toml) and write the lock files with hashes
	$(PYTHON) -m venv .work/uv && .work/uv/bin/pip install -q uv
	for lock in ":--extra cpu --extra pdf" "-service:--extra scale --extra pdf --extra traces" "-gpu:--extra gpu --extra scale" "-test:--group test --extra cpu --extra scale --extra pdf --extra traces"; do \
	  .work/uv/bin/uv pip compile -q pyproject.toml $${lock#*:} --universal --generate-hashes --no-header --no-annotate --python-version 3.11 -o requirements$${lock%%:*}.lock; done

docs: $(VENV)/.test ## write the documents that are generated from code (reasons, configuration)
	$(PY) -m tests.docs

system: # Debian packages that the tests use; installed when root or sudo is there, else named
	@missing=""; for p in $(DEBIAN); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ]; then run=""; elif sudo -n true 2>/dev/null; then run=sudo; \
	else echo "The tests need these Debian packages; please install them:  apt-get install$$missing"; exit 1; fi; \
	echo "installing:$$missing"; $$run apt-get update -qq; \
	DEBIAN_FRONTEND=noninteractive $$run apt-get install -y -qq --no-install-recommends $$missing >/dev/null

clean: ## remove the environment and everything the demo made
	rm -rf $(VENV) .work demo-out

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed (PYTHON=... names another one)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "venv is missing; on Debian or Ubuntu: apt-get install python3-venv"; exit 1; }

$(VENV)/.runtime: requirements.lock pyproject.toml | $(VENV)/bin/python
	@echo "installing pinned packages (about a minute the first time) ..."
	@test -e $(VENV)/.test || $(PY) -m pip install -q --require-hashes -r requirements.lock
	@$(PY) -m pip install -q --no-deps -e .
	@touch $@

$(TRAIN)/.ready: models/requirements-train.lock pyproject.toml
	@echo "installing pinned training packages (pip must be told where PyTorch's CPU wheels are: models/cman/README.md) ..."
	@test -x $(TRAIN)/bin/python || $(PYTHON) -m venv $(TRAIN)
	@$(TRAIN)/bin/python -m pip install -q --require-hashes -r models/requirements-train.lock
	@$(TRAIN)/bin/python -m pip install -q --no-deps -e .
	@touch $@

$(VENV)/.test: requirements-test.lock $(VENV)/.runtime
	@echo "installing pinned test packages ..."
	@$(PY) -m pip install -q --require-hashes -r requirements-test.lock
	@touch $@
