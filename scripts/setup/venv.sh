#!/usr/bin/env bash
# Make (once) a Python environment from a lock with hashes and print the path of its python. Without an argument it is the
# one that bakes, serves locally and tests. The binding is installed without compiling; libllama comes from libllama/build.py.
#
# usage: venv.sh [LOCK]   (default tests/requirements.txt)
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/lib.sh
. packer/versions.env

lock=${1:-tests/requirements.txt}
python=${PYTHON:-python3}
command -v "$python" >/dev/null || die "$python is missing" "sudo apt-get install python3 python3-venv"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
  die "$("$python" --version) is too old: 3.10 or newer is needed" "make PYTHON=/path/to/python3.12 ..."
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
  die "$python cannot make virtual environments" "sudo apt-get install python3-venv"

key=$({ cat "$lock" scripts/setup/venv.sh; "$python" -VV; uname -m; command -v "$python"; } | sha256sum | cut -c1-16)
venv=$(cache_root)/venv/$key
if [ ! -e "$venv/complete" ]; then
  log "python environment: installing $lock into $venv"
  rm -rf "$venv"
  "$python" -m venv "$venv"
  locked=$(mktemp)
  trap 'rm -f "$locked"' EXIT
  # uv, itself from the lock, installs the rest in parallel. The binding comes last: its build tool is in the lock too.
  uv_lock=$(sed -n '/^uv==/,/^[^ ]/{/^uv==/p;/^ /p}' "$lock")
  sed '/^llama-cpp-python==/,/^[^ ]/{/^llama-cpp-python==/d;/^ /d}' "$lock" >"$locked"
  "$venv/bin/python" -m pip --quiet --disable-pip-version-check install --require-hashes --no-deps \
    --requirement <(printf '%s\n' "$uv_lock") >&2 ||
    die "uv could not be installed" "check the network and pip's configuration, then run again"
  "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --require-hashes --no-deps --requirement "$locked" >&2 ||
    die "the Python packages could not be installed" "check the network, then run again"
  printf 'llama-cpp-python==%s --hash=sha256:%s\n' "$LLAMA_CPP_PYTHON_VERSION" "$LLAMA_CPP_PYTHON_SHA256" >"$locked"
  CMAKE_ARGS=-DLLAMA_BUILD=OFF PATH="$venv/bin:$PATH" "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" \
    --require-hashes --no-deps --no-build-isolation --no-binary llama-cpp-python --requirement "$locked" >&2 ||
    die "the llama-cpp-python binding could not be installed"
  touch "$venv/complete"
fi
printf '%s\n' "$venv/bin/python"
