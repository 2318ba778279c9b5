#!/usr/bin/env bash
# Make ready what the stress run needs, each once and cached, then run it: our library set and the model. Load goes to
# loopback only, and every scenario is bounded in time.
#
# usage: [SCENARIOS="NAME..."] [SECONDS_EACH=20] stress.sh MODEL
#   MODEL: a GGUF file, or a row of packer/models.toml; SCENARIOS: names that `python -m tests.stress --help` lists
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/lib.sh
[ $# -eq 1 ] || die "usage: stress.sh MODEL"

python=$(bash scripts/setup/venv.sh)
sets=$("$python" -m scripts.libllama.build native)
if [ -f "$1" ]; then model=$1; else model=$("$python" -m scripts.models.fetch "$1"); fi
read -ra scenarios <<<"${SCENARIOS:-}"
options=()
[ ${#scenarios[@]} -eq 0 ] || options+=(--scenarios "${scenarios[@]}")
exec "$python" -m tests.stress --model "$model" --lib-sets "$sets" --seconds "${SECONDS_EACH:-20}" "${options[@]}"
