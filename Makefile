# Every public target has a `## text`; `make` alone prints them. Each does its own set-up.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

MODEL ?= demo
BASE ?= auto
PYTHON ?= python3
PORT ?= 8080
export PYTHON
# Where Debian keeps nginx, sfdisk and mke2fs; an ordinary user's PATH may lack it.
export PATH := $(PATH):/usr/sbin:/sbin

# The tools environment's python; made on first use.
venv = $$(bash scripts/setup/venv.sh)

# Only these words agree to something, and whatever is not a no keeps it from being done.
yes = $(if $(filter 1 yes true,$(YES)),--yes)
dry_run = $(if $(filter-out 0 no false,$(DRY_RUN)),--dry-run)
needs_compartment = [ -n '$(COMPARTMENT)' ] || { echo 'usage: make $(1) COMPARTMENT=ocid1.compartment...' >&2; exit 2; }

.PHONY: help image image-oci stack test test-image test-faults run bench stress estimate tune lock lock-model train-demo clean
.PHONY: publish deploy destroy prune-images rollout status

help: ## print this
	@printf 'Llamakiln: a small language model, baked into an Arm image for Oracle Cloud.\n\n'
	@awk -F ' ## ' '/^[a-z-]+:.* ## / { sub(/:.*/, "", $$1); printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

image: ## bake and test the Arm image here, with no cloud account (MODEL=demo BASE=auto)
	@bash scripts/setup/host_packages.sh image
	@python=$(venv); "$$python" -m scripts.bake.make_image --model '$(MODEL)' --base '$(BASE)'

image-oci: ## bake in Oracle Cloud (MODEL=demo VARS=packer/oci/my.pkrvars.hcl)
	@bash scripts/setup/host_packages.sh oci
	@python=$(venv); "$$python" -m scripts.cloud.bake --model '$(MODEL)' $(if $(VARS),--var-file '$(VARS)')

publish: ## make the local bake an image in Oracle Cloud (COMPARTMENT=ocid1... [FILE=x.oci] [BUCKET=name] [LINK=days])
	@$(call needs_compartment,publish)
	@python=$(venv); "$$python" -m scripts.cloud.publish --compartment '$(COMPARTMENT)' $(if $(FILE),--file '$(FILE)') \
	  $(if $(BUCKET),--bucket '$(BUCKET)') $(if $(LINK),--link '$(LINK)') $(dry_run)

deploy: ## plan, ask, apply in Oracle Cloud, wait for an answer (COMPARTMENT=ocid1... [IMAGE=ocid] [VARS=file.json] [YES=1])
	@$(call needs_compartment,deploy)
	@python=$(venv); "$$python" -m scripts.cloud.deploy --compartment '$(COMPARTMENT)' $(if $(NAME),--name '$(NAME)') \
	  $(if $(IMAGE),--image '$(IMAGE)') $(if $(VARS),--vars '$(VARS)') $(yes) $(dry_run)

destroy: ## take a deployment away again, after asking (COMPARTMENT=ocid1... [NAME=llamakiln] [YES=1])
	@$(call needs_compartment,destroy)
	@python=$(venv); "$$python" -m scripts.cloud.destroy --compartment '$(COMPARTMENT)' $(if $(NAME),--name '$(NAME)') \
	  $(yes)

prune-images: ## delete old images that nothing uses, after asking (COMPARTMENT=ocid1... [KEEP=3] [BUCKET=name] [YES=1])
	@$(call needs_compartment,prune-images)
	@python=$(venv); "$$python" -m scripts.cloud.prune --compartment '$(COMPARTMENT)' $(if $(KEEP),--keep '$(KEEP)') \
	  $(if $(BUCKET),--bucket '$(BUCKET)') $(yes)

stack: ## check the Resource Manager stack and pack it: build/llamakiln-stack.zip
	@python=$(venv); "$$python" -m scripts.stack.pack

rollout: ## replace a pool's nodes while it serves (POOL=ocid1... [IMAGE=ocid1...] [YES=1] [DRY_RUN=1])
	@[ -n '$(POOL)' ] || { echo 'usage: make rollout POOL=ocid1.instancepool... [IMAGE=ocid1.image...]' >&2; exit 2; }
	@python=$(venv); "$$python" -m scripts.cloud.rollout '$(POOL)' $(if $(IMAGE),'$(IMAGE)') $(yes) $(dry_run)

status: ## show pools and their nodes (POOL=ocid1... or COMPARTMENT=ocid1... [URL=https://...] [JSON=1])
	@[ -n '$(POOL)$(COMPARTMENT)' ] || { echo 'usage: make status POOL=ocid1... or COMPARTMENT=ocid1...' >&2; exit 2; }
	@python=$(venv); "$$python" -m scripts.cloud.status $(if $(POOL),'$(POOL)',--compartment '$(COMPARTMENT)') \
	  $(if $(URL),--url '$(URL)') $(if $(JSON),--json)

test: ## run every test that needs no bake (PROVIDER=registry or its path: the stack with Oracle's own provider)
	@bash scripts/setup/host_packages.sh test
	@bash scripts/run/tests.sh $(ARGS)

test-image: ## test a running node (HOST=address [KEY=~/.ssh/id_ed25519] [SSH_USER=ubuntu])
	@[ -n '$(HOST)' ] || { echo 'usage: make test-image HOST=address [KEY=private-key]' >&2; exit 2; }
	@python=$(venv); "$$python" -m scripts.bake.test_image --host '$(HOST)' $(if $(KEY),--key '$(KEY)')

test-faults: ## break a booted copy of the baked image in every way (IMAGE=build/x.qcow2; half an hour emulated)
	@bash scripts/setup/host_packages.sh image
	@python=$(venv); "$$python" -m scripts.bake.test_image --faults $(or $(IMAGE),$$(ls -t build/*.qcow2 | head -n 1))

run: ## serve the page on this machine, loopback only (MODEL=demo PORT=8080)
	@bash scripts/setup/host_packages.sh run
	@bash scripts/run/service.sh '$(MODEL)' '$(PORT)'

# MODEL has a default above that is not the benchmark's.
bench: ## compare with other servers on this machine (MODEL=random PEERS="..." WORKLOADS="..." QUICK=1)
	@bash scripts/setup/host_packages.sh bench
	@PEERS='$(PEERS)' WORKLOADS='$(WORKLOADS)' QUICK='$(QUICK)' \
	  bash scripts/run/bench.sh '$(if $(filter file,$(origin MODEL)),random,$(MODEL))'

stress: ## load, abuse and break a node on loopback, and hold it against its budgets (MODEL=demo SCENARIOS="..." SECONDS_EACH=20)
	@bash scripts/setup/host_packages.sh stress
	@SCENARIOS='$(SCENARIOS)' SECONDS_EACH='$(SECONDS_EACH)' bash scripts/run/stress.sh '$(MODEL)'

estimate: ## estimate our kernels' speed on Arm from the built sets; here measure too (SHAPES=SmolLM3-3B SUITE=bookworm)
	@bash scripts/setup/host_packages.sh estimate
	@python=$(venv); arm=$$("$$python" -m scripts.libllama.build arm64 --suite '$(or $(SUITE),bookworm)'); \
	  here=$$("$$python" -m scripts.libllama.build native); \
	  "$$python" -m tests.bench.estimate "$$arm" "$$here" $(if $(SHAPES),--model '$(SHAPES)')

tune: ## find the fastest settings for a model on this machine (MODEL=demo, or several to compare; STORE=1 keeps them)
	@bash scripts/setup/host_packages.sh run
	@STORE='$(STORE)' bash scripts/run/tune.sh $(MODEL)

lock: ## lock the Python packages again after a change in pyproject.toml
	@python=$(venv); PATH="$$(dirname "$$python"):$$PATH" bash scripts/setup/lock_python.sh

lock-model: ## add a model to packer/models.toml (REPO=owner/name FILE=file.gguf [NAME=...])
	@[ -n '$(REPO)' ] && [ -n '$(FILE)' ] || { echo 'usage: make lock-model REPO=owner/name FILE=file.gguf [NAME=...]' >&2; exit 2; }
	@python=$(venv); "$$python" -m scripts.models.lock '$(REPO)' '$(FILE)' $(if $(NAME),--name '$(NAME)')

train-demo: ## train the demo model again (minutes; packer/models/README.md)
	@bash scripts/models/demo/train.sh

clean: ## remove build/ (the cache stays: ~/.cache/llamakiln)
	rm -rf build
