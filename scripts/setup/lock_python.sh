#!/usr/bin/env bash
# Lock the Python dependencies of pyproject.toml with hashes, for every Python from 3.10 on and for x86-64 and Arm.
# Writes service/requirements.txt (what a node runs), tests/requirements.txt (that, and what bakes and tests) and
# tests/bench/requirements.txt (the Python servers that the benchmark compares with).
# Needs uv (`pip install uv`). Knows no index: uv uses the one the machine is configured with.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/lib.sh

command -v uv >/dev/null || die "uv is missing" "pip install uv"
lock() {
  uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-emit-index-url --no-annotate \
    --custom-compile-command "make lock" "$@"
}
log "locking service/requirements.txt"
lock pyproject.toml -o service/requirements.txt
log "locking tests/requirements.txt"
lock pyproject.toml --extra dev -c service/requirements.txt -o tests/requirements.txt
log "locking tests/bench/requirements.txt"
lock pyproject.toml --extra bench -c tests/requirements.txt -o tests/bench/requirements.txt
