#!/usr/bin/env bash
# Fetch the pinned llama-cpp-python source distribution and unpack it, once; print the folder that holds both.
#
# The folder has llama_cpp_python-<version>.tar.gz and the tree llama_cpp_python-<version>/ with vendor/llama.cpp in it.
# pip asks the index it is configured for, so a mirror or an offline folder (PIP_FIND_LINKS) works too. It compares the
# sha256 before it looks inside the archive.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
# shellcheck source=packer/versions.env
. packer/versions.env
require_env LLAMA_CPP_PYTHON_VERSION LLAMA_CPP_PYTHON_SHA256 LLAMA_CPP_COMMIT

if [ $# -gt 0 ]; then
  log "usage: $0   (no arguments; pins are in packer/versions.env)"
  [ "$1" = --help ] && exit 0 || exit 2
fi

name=llama_cpp_python-$LLAMA_CPP_PYTHON_VERSION
dir=$(cache_root)/sdist/$LLAMA_CPP_PYTHON_SHA256
if [ ! -d "$dir" ]; then
  python=${PYTHON:-python3}
  "$python" -m pip --version >/dev/null 2>&1 || die "$python has no pip" "apt-get install python3-pip"
  mkdir -p "$(dirname "$dir")"
  part=$(mktemp -d "$dir.XXXXXX")
  trap 'rm -rf "$part"' EXIT
  log "fetching $name.tar.gz (77 MB)"
  printf 'llama-cpp-python==%s --hash=sha256:%s\n' "$LLAMA_CPP_PYTHON_VERSION" "$LLAMA_CPP_PYTHON_SHA256" \
    >"$part/pin.txt"
  "$python" -m pip download --quiet --no-deps --no-binary llama-cpp-python --require-hashes -r "$part/pin.txt" \
    -d "$part" >&2 || die "could not fetch $name with the pinned sha256" "check the network and pip's index, then run again"
  rm "$part/pin.txt"
  tar -xzf "$part/$name.tar.gz" -C "$part"
  commit=$(cat "$part/$name/.git/modules/vendor/llama.cpp/HEAD")
  [[ $commit == "$LLAMA_CPP_COMMIT"* ]] ||
    die "$name carries llama.cpp $commit, but packer/versions.env says LLAMA_CPP_COMMIT=$LLAMA_CPP_COMMIT"
  chmod 755 "$part"
  mv -T "$part" "$dir" 2>/dev/null || [ -d "$dir" ] # another run may have been faster
fi
printf '%s\n' "$dir"
