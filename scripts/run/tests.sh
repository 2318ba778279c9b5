#!/usr/bin/env bash
# Set up and run every test that needs no bake: style, shell scripts, then pytest without tests/image.
#
# pytest runs in as many processes as there are cores, at most four; each takes whole files, one after another, in the
# order of their names. (By default those with few tests would come last, and the slowest of all is one of them.)
#
# The tests of the stack run with a stand-in of Oracle's Terraform provider; with PROVIDER=registry, or its path, with the
# real one.
#
# usage: tests.sh [PYTEST_ARGUMENT...]   (they come last: `-n 0` is one process, a path is all that is run)
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/lib.sh

python=$(bash scripts/setup/venv.sh)
LLM_LIB_DIR=$("$python" -m scripts.libllama.build native)
PACKER=$(bash scripts/setup/packer.sh)
export LLM_LIB_DIR PACKER
if TERRAFORM_HOME=$(bash scripts/setup/terraform.sh); then
  export TERRAFORM_HOME
else
  [ -z "${CI:-}" ] || die "continuous integration must test the stack, and there is no Terraform"
  unset TERRAFORM_HOME
  log "the tests that need Terraform are skipped"
fi
if [ "${PROVIDER:-}" = registry ]; then
  PROVIDER=$(bash scripts/setup/provider.sh "${TERRAFORM_HOME:-}") || PROVIDER=
fi
export PROVIDER
log "OCI provider of the stack's tests: ${PROVIDER:-the stand-in (PROVIDER=registry or its path: the real one)}"

log "ruff"
"$python" -m ruff check
"$python" -m ruff format --check --quiet || die "some files are not formatted" "$python -m ruff format"
log "the floors of service/"
"$(dirname "$python")/lint-imports" --no-cache >&2 || die "an import of service/ points up" "see the contracts in pyproject.toml"
log "shellcheck"
shopt -s globstar
shellcheck scripts/**/*.sh .ci/run
cores=$(nproc)
workers=$((cores < 4 ? cores : 4))
log "pytest, $workers at a time"
exec "$python" -m pytest --ignore tests/image -n "$workers" --dist loadfile --no-loadscope-reorder "$@"
