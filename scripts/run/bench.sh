#!/usr/bin/env bash
# Make ready what the benchmark needs, each once and cached, then run it: our library sets, llama-server of the same tree,
# the Python servers' packages, and the model. Results are in build/bench.
#
# usage: [PEERS="NAME..."] [WORKLOADS="NAME..."] [QUICK=1] bench.sh MODEL
#   MODEL: random (made on the spot), a GGUF file, or a row of packer/models.toml
#   PEERS, WORKLOADS: names that `python -m tests.bench --help` lists; PEERS=none compares with nobody
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/lib.sh
[ $# -eq 1 ] || die "usage: bench.sh MODEL"

# From the sdist: a vocabulary for the random model, and examples/server, which is not installed with the binding.
python=$(bash scripts/setup/venv.sh)
sets=$("$python" -m scripts.libllama.build native)
options=(--lib-sets "$sets")
tree=$(echo "$(bash scripts/libllama/fetch_sdist.sh)"/llama_cpp_python-*/)

[ -z "${QUICK:-}" ] || options+=(--quick)
read -ra workloads <<<"${WORKLOADS:-}"
[ ${#workloads[@]} -eq 0 ] || options+=(--workloads "${workloads[@]}")
read -ra peers <<<"${PEERS:-}"
if [ "${PEERS:-}" = none ]; then
  options+=(--peers)
else
  [ ${#peers[@]} -eq 0 ] || options+=(--peers "${peers[@]}")
  options+=(--peer-set "$("$python" -m scripts.libllama.build_peers)" --examples "$tree/examples/server")
  if peer_python=$(bash scripts/setup/venv.sh tests/bench/requirements.txt); then
    options+=(--peer-python "$peer_python")
  fi
fi

case $1 in
  random)
    lib_set=$("$python" -m service.llama.library --lib-dir "$sets" --blas off)
    model=$("$python" -m tests.bench.random_model --folder "$(cache_root)/bench" --lib-set "$lib_set" \
      --vocabulary "$tree/vendor/llama.cpp/models/ggml-vocab-llama-spm.gguf")
    ;;
  *) if [ -f "$1" ]; then model=$1; else model=$("$python" -m scripts.models.fetch "$1"); fi ;;
esac
exec "$python" -m tests.bench --model "$model" "${options[@]}"
