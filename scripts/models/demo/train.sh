#!/usr/bin/env bash
# `make train-demo`: make (once) the environment for training from scripts/models/demo/requirements.txt, then train.
# Arguments go to train.py (--help lists them). The new file's row in packer/models.toml must be changed by hand.
set -euo pipefail
cd "$(dirname "$0")/../../.."
. scripts/lib.sh

python=${PYTHON:-python3}
key=$({ cat scripts/models/demo/requirements.txt; "$python" -VV; uname -m; command -v "$python"; } | sha256sum | cut -c1-16)
venv=$(cache_root)/train-venv/$key
if [ ! -e "$venv/complete" ]; then
  log "installing scripts/models/demo/requirements.txt into $venv"
  rm -rf "$venv"
  "$python" -m venv "$venv"
  "$venv/bin/python" -m pip --quiet --disable-pip-version-check install --require-hashes --no-deps \
    --requirement scripts/models/demo/requirements.txt || die "the packages could not be installed" "check the network, then run again"
  touch "$venv/complete"
fi
exec "$venv/bin/python" -m scripts.models.demo.train "$@"
