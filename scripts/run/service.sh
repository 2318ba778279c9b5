#!/usr/bin/env bash
# Serve the page and the API on this machine: environment, library set and model are made ready first, then the service runs
# in the foreground on 127.0.0.1 until Ctrl-C.
#
# usage: service.sh MODEL PORT
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/lib.sh
[ $# -eq 2 ] || die "usage: service.sh MODEL PORT"

python=$(bash scripts/setup/venv.sh)
sets=$("$python" -m scripts.libllama.build native)
model=$("$python" -m scripts.models.fetch "$1")
row=$("$python" -m scripts.models.catalog "$1")
context=$(sed -n 's/^ *"context": \([0-9]*\).*/\1/p' <<<"$row")
# What `make tune STORE=1` found for this model, unless the environment says otherwise.
while IFS='=' read -r name value; do
  [ -n "${!name:-}" ] || export "$name=$value"
done < <(sed -n 's/^ *"\(LLM_[A-Z_]*\)": "\(.*\)",\{0,1\}$/\1=\2/p' <<<"$row")

state=$(cache_root)/state
mkdir -p "$state"

log "http://127.0.0.1:$2/ (Ctrl-C ends it)"
export LLM_MODEL=$model LLM_MODEL_NAME=$1 LLM_CONTEXT=${LLM_CONTEXT:-$context} LLM_LIB_DIR=$sets LLM_HOST=127.0.0.1 LLM_PORT=$2
export LLM_STATE_DIR=${LLM_STATE_DIR:-$state}
exec "$python" -m service
