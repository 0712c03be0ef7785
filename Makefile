# `make help` lists what there is.
.DEFAULT_GOAL := help
PYTHON := .venv/bin/python
PACK ?= open
IMAGES ?= .local/sample-album
# Tests start hundreds of processes; without bytecode on disk each would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE
# Terraform would ask its maker for newer versions.
export CHECKPOINT_DISABLE = 1

.PHONY: help
help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

.PHONY: setup
setup: ## make .venv from uv.lock and build the open model pack
	@./dev_worker.sh setup

.PHONY: album
album: ## the sample album through the whole system
	@./dev_worker.sh album

# Each worker takes whole files, in their order: contract, infra, integration, and the many short unit tests last.
# Integration tests wait about as long as they compute, so two cores are busy with four workers.
WORKERS ?= 4
PARALLEL = -n $(WORKERS) --dist loadscope --no-loadscope-reorder
# What measures time comes last, with the machine to itself.
.PHONY: test
test: setup ## all tests, several at once: WORKERS=4
	$(PYTHON) -m pytest $(PARALLEL) -m "not alone" --durations=15
	$(PYTHON) -m pytest -m alone --durations=5 tests/unit tests/integration

.PHONY: coverage
coverage: setup ## which lines the tests run, in all processes: some 20 minutes
	$(PYTHON) -m pytest $(PARALLEL) --timeout 600 --cov --cov-report=term

.PHONY: test-fast
test-fast: setup ## the unit tests that take no longer than a few seconds: within a minute
	$(PYTHON) -m pytest $(PARALLEL) -m "not slow" tests/unit

.PHONY: lint
lint: setup ## style, types, import rules, Dockerfile, shell scripts, reference pages
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/hadolint Dockerfile
	.venv/bin/shellcheck dev_worker.sh prod_worker.sh benchmarks/speed/newcomer.sh infra/*.sh .ci/run
	$(PYTHON) -m app.reference --check
	@$(MAKE) --no-print-directory requirements-check

.PHONY: format
format: setup ## put the code in the house style
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

.PHONY: reference
reference: setup ## write docs/configuration.md, metrics.md and schemas from the code
	$(PYTHON) -m app.reference

# As the Dockerfile installs them.
IMAGE_PACKAGES = --frozen --quiet --extra gpu --no-default-groups --no-emit-project
EXPORT = $(PYTHON) -m uv export $(IMAGE_PACKAGES) --no-header
.PHONY: requirements
requirements: setup ## write requirements.txt (GPU) from uv.lock
	$(EXPORT) --output-file requirements.txt >/dev/null

.PHONY: requirements-check
requirements-check:
	@$(EXPORT) | diff -q - requirements.txt >/dev/null || { echo "requirements.txt is out of date; run 'make requirements'." >&2; exit 1; }

.PHONY: memory
memory: setup ## does the detection service grow? 50 photos against 500
	$(PYTHON) -m benchmarks memory --images $(IMAGES) --pack $(PACK)

.PHONY: idempotence
idempotence: setup ## is a result the same after five more messages?
	$(PYTHON) -m benchmarks idempotence --images $(IMAGES) --pack $(PACK)

.PHONY: fuzz
fuzz: setup ## 100,000 mutated messages, 5,000 mutated pictures and 5,000 with another structure
	$(PYTHON) -m benchmarks fuzz

.PHONY: hostile
hostile: setup ## 200 photos and 40 files made to hurt, under a limit of 2 GB: memory, time, and what becomes of each
	$(PYTHON) -m benchmarks hostile

.PHONY: chaos
chaos: setup ## workers killed and stores failing at every point: is anything lost or done twice?
	$(PYTHON) -m benchmarks chaos

.PHONY: exits
exits: setup ## seconds from SIGTERM to the end, idle and busy, at production's settings
	$(PYTHON) -m benchmarks exits

.PHONY: storm
storm: setup ## 2,000 tiny photos at once: memory, and nothing done twice
	$(PYTHON) -m benchmarks storm

.PHONY: decoding
decoding: setup ## what it costs that untrusted pictures are decoded in child processes: IMAGES= PACK=
	$(PYTHON) -m benchmarks decoding --images $(IMAGES) --pack $(PACK) --json

.PHONY: detection
detection: setup ## photos a second against insightface's loop (PACK=manifest of an SCRFD pack, IMAGES=folder)
	$(PYTHON) -m benchmarks detection --pack $(PACK) --images $(IMAGES) --json

.PHONY: gpu
gpu: setup ## what only a GPU can show: tests/gpu, then the detection benchmark on it
	$(PYTHON) -m pytest tests/gpu
	$(PYTHON) -m benchmarks detection --synthetic-pack buffalo_l --images $(IMAGES) --times 20 --provider cuda --json

.PHONY: service
service: setup ## photos a second of the service as a process: slow S3, twins, messages that come again
	$(PYTHON) -m benchmarks service --images $(IMAGES) --pack $(PACK)

.PHONY: quality
quality: setup ## whether the quality measures predict recognition: IMAGES= (a folder a person) PACK=
	$(PYTHON) -m benchmarks quality --images $(IMAGES) --pack $(PACK)

.PHONY: quality-fit
quality-fit: setup ## make app/vision/quality/fitted.npz and its picture anew: IMAGES= (a folder a person) PACK=
	$(PYTHON) -m benchmarks quality fit $(FIT) --images $(IMAGES) --pack $(PACK) $(if $(FIT),,--plot docs/images/error-versus-discard.svg)

.PHONY: prefilter
prefilter: setup ## what the pre-filter rejects and loses, and what it saves: IMAGES= PACK=
	$(PYTHON) -m benchmarks prefilter --images $(IMAGES) --pack $(PACK) --json
	$(PYTHON) -m benchmarks prefilter_savings --images $(IMAGES) --pack $(PACK)

.PHONY: verification
verification: setup ## who is taken for whom, beside insightface's own pipeline (IMAGES=folder of people's folders, PACK=)
	$(PYTHON) -m benchmarks verification --images $(IMAGES) --pack $(PACK) --json

.PHONY: grouping
grouping: setup ## how well faces come together as people, beside other projects' ways: EMBEDDINGS=file.npz VECTORS=key
	$(PYTHON) -m benchmarks grouping --embeddings $(EMBEDDINGS) $(if $(VECTORS),--vectors $(VECTORS)) --json

.PHONY: everybody
everybody: setup ## whether one setting serves every age, group and gallery size: EVAL=folder PACK=
	$(PYTHON) -m benchmarks everybody --pack $(PACK) $(if $(EVAL),--eval $(EVAL)) --json

.PHONY: loading
loading: setup ## seconds until grouping has a gallery's 100,000 faces, and what share is the database's
	$(PYTHON) -m benchmarks loading --json

.PHONY: coalescing
coalescing: setup ## runs that 5,000 photos within a minute lead to; is every photo grouped in the end?
	$(PYTHON) -m benchmarks coalescing --json
	$(PYTHON) -m benchmarks coalescing --kill --json

.PHONY: albums
albums: setup ## composed group photos with poor faces, from the files to people: IMAGES= (a folder a person) PACK=
	$(PYTHON) -m benchmarks albums --images $(IMAGES) --pack $(PACK) --json

.PHONY: neighbours
neighbours: setup ## seconds, memory and recall of the search for neighbours: EMBEDDINGS=file.npz VECTORS=key FACES=100000
	$(PYTHON) -m benchmarks neighbours --embeddings $(EMBEDDINGS) $(if $(VECTORS),--vectors $(VECTORS)) $(if $(FACES),--faces $(FACES)) --json

.PHONY: rotated
rotated: setup ## faces found in photos turned by 90, 180 and 270 degrees, and what looking for them costs: IMAGES= PACK=
	$(PYTHON) -m benchmarks rotated --images $(IMAGES) --pack $(PACK) --json

.PHONY: newcomer
newcomer: ## time from git clone to the finished sample album
	@bash benchmarks/speed/newcomer.sh

.PHONY: submitter
submitter: setup ## write build/batch_submitter.zip, the same bytes from the same source
	$(PYTHON) -m infra.package_lambda batch_submitter build/batch_submitter.zip

.PHONY: cost
cost: setup ## what 1,000 photos cost on ECS and Batch, beside Rekognition
	@$(PYTHON) -m infra.cost

.PHONY: scaling
scaling: setup ## a simulated day of load on ECS, Batch, both, and what was planned first; draws docs/images/scaling.svg
	$(PYTHON) -m benchmarks scaling --plot docs/images/scaling.svg

.PHONY: telemetry
telemetry: setup ## what metrics and traces cost a photo, in microseconds and in throughput
	$(PYTHON) -m benchmarks telemetry --json

.PHONY: load
load: setup ## 20,000 messages through worker processes with a stub model: messages a second, memory, nothing twice
	$(PYTHON) -m benchmarks load --json

.PHONY: pin
pin: ## write the digest of the base image into the Dockerfile
	@infra/pin_base.sh

.PHONY: image-check
image-check: setup ## what can be told of the image without Docker: hadolint, its packages alone, a read-only start
	.venv/bin/hadolint Dockerfile
	$(PYTHON) -m pytest -q tests/infra/test_image.py

.PHONY: image-size
image-size: setup ## megabytes of the image's packages, by uv.lock
	$(PYTHON) -m infra.image_size

SBOM ?= sbom.cdx.json
.PHONY: sbom
sbom: setup ## what is in the image, with hashes, as CycloneDX: SBOM=file
	$(PYTHON) -m uv export $(IMAGE_PACKAGES) --preview-features sbom-export --format cyclonedx1.5 --output-file $(SBOM) >/dev/null

# The stack's name, as in Terraform.
NAME ?= face-worker
.PHONY: push
push: setup ## build the image of this commit and push it to ECR: NAME=stack (FORCE=1 with files not committed)
	$(PYTHON) -m infra.deploy.push --name $(NAME) $(if $(FORCE),--force)

.PHONY: deploy
deploy: setup ## bring the pushed image to the services, and back where it fails: NAME=stack IMAGE=
	$(PYTHON) -m infra.deploy --name $(NAME) $(if $(IMAGE),--image $(IMAGE))

STACK ?= staging
EXAMPLE = infra/terraform/examples/$(STACK)
.PHONY: infra
infra: submitter ## make or change a stack on AWS: STACK=staging|production STATE_BUCKET= (settings: terraform.tfvars beside it)
	$(if $(STATE_BUCKET),,$(error STATE_BUCKET names the bucket that Terraform's state lies in))
	terraform -chdir=$(EXAMPLE) init -input=false -backend-config=bucket=$(STATE_BUCKET)
	TF_VAR_image_tag=$${TF_VAR_image_tag:-$$(git rev-parse --short=12 HEAD)} terraform -chdir=$(EXAMPLE) apply

.PHONY: infra-check
infra-check: setup ## Terraform: form, validity, every part's logic with mocked providers, checkov
	@infra/check_terraform.sh --with-checkov

.PHONY: infra-test
infra-test: setup ## infra-check, then all of it applied against moto's server and the worker run on it
	@infra/check_terraform.sh --with-checkov
	INFRA_TEST=1 $(PYTHON) -m pytest tests/infra
