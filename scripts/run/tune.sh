#!/usr/bin/env bash
# `make tune`: make environment, library sets and models ready, then measure settings for each model in turn.
#
# usage: [STORE=1] tune.sh MODEL... (rows of packer/models.toml or GGUF files: name several quantisations to compare them;
# STORE writes what is recommended into the rows)
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/lib.sh
[ $# -ge 1 ] || die "usage: tune.sh MODEL..."

python=$(bash scripts/setup/venv.sh)
LLM_LIB_DIR=$("$python" -m scripts.libllama.build native)
export LLM_LIB_DIR LLM_LOG_LEVEL=error
for name in "$@"; do
  if [ -f "$name" ]; then model=$name; else model=$("$python" -m scripts.models.fetch "$name"); fi
  log "$name"
  store=()
  if [ -n "${STORE:-}" ]; then store=(--store "$name"); fi
  LLM_MODEL=$model "$python" -m scripts.run.tune_engine ${store[@]+"${store[@]}"}
done
