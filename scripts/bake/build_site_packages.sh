#!/usr/bin/env bash
# Gather a node's Python packages on this machine: service/requirements.txt, hashes checked, as aarch64 wheels for the
# image's Python, unpacked. The image then needs no pip, no index and no compiler.
#
# usage: build_site_packages.sh PYTHON_VERSION      (3.10 for Ubuntu 22.04); prints the directory
# Runs with the tools environment's python in $PYTHON (its uv and pip).
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/lib.sh
. packer/versions.env
require_env PYTHON

[ $# -eq 1 ] || die "usage: build_site_packages.sh PYTHON_VERSION"
version=$1
key=$({ cat service/requirements.txt scripts/bake/build_site_packages.sh packer/versions.env; echo "$version"; } | sha256sum | cut -c1-16)
out=$(cache_root)/site/$key
if [ ! -d "$out" ]; then
  work=$out.part
  rm -rf "$work"
  mkdir -p "$work"
  trap 'rm -rf "$work"' EXIT
  sed '/^llama-cpp-python==/,/^[^ ]/{/^llama-cpp-python==/d;/^ /d}' service/requirements.txt >"$work/locked.txt"
  log "python packages: aarch64 wheels for Python $version"
  # Ubuntu 22.04 has glibc 2.35, and every other base a newer one (packer/bases.toml).
  "$PYTHON" -m uv pip install --quiet --target "$work/site" --python "$PYTHON" --python-version "$version" \
    --python-platform aarch64-manylinux_2_35 --only-binary :all: --require-hashes --no-deps --link-mode copy \
    --requirement "$work/locked.txt" >&2 || die "the aarch64 wheels could not be fetched" "check the network, then run again"
  # The binding is pure Python once nothing is compiled; its wheel is tagged for this machine only because CMake ran.
  printf 'llama-cpp-python==%s --hash=sha256:%s\n' "$LLAMA_CPP_PYTHON_VERSION" "$LLAMA_CPP_PYTHON_SHA256" >"$work/locked.txt"
  CMAKE_ARGS=-DLLAMA_BUILD=OFF PATH="$(dirname "$PYTHON"):$PATH" "$PYTHON" -m pip --quiet wheel --no-deps --no-build-isolation \
    --require-hashes --no-binary llama-cpp-python --requirement "$work/locked.txt" --wheel-dir "$work/wheel" >&2 ||
    die "the llama-cpp-python binding could not be packed"
  "$PYTHON" -m zipfile -e "$work"/wheel/llama_cpp_python-*.whl "$work/site"
  if find "$work/site/llama_cpp" -name '*.so*' | grep -q .; then die "the binding's wheel holds compiled libraries"; fi
  rm -rf "$work/site/bin" "$work/site/.lock"
  mv "$work/site" "$out"
fi
printf '%s\n' "$out"
