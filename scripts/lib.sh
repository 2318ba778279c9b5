# What any shell script here may use: messages, requirements, verified downloads. Sourced, never run.
# shellcheck shell=bash

# log MESSAGE: progress for a person, on stderr so that stdout stays a script's answer.
log() { printf '%s\n' "$*" >&2; }

# die MESSAGE [WAY_OUT]: say what is wrong and what to do, then stop.
die() {
  printf 'error: %s\n' "$1" >&2
  if [ $# -gt 1 ]; then printf '  try: %s\n' "$2" >&2; fi
  exit 1
}

# require_env NAME...: stop unless each variable is set and not empty.
require_env() {
  local name
  for name in "$@"; do
    [ -n "${!name:-}" ] || die "$name is not set; ${0##*/} needs it"
  done
}

# cache_root: where everything that is expensive to make is kept, keyed by content.
cache_root() { printf '%s\n' "${LLAMAKILN_CACHE:-$HOME/.cache/llamakiln}"; }

# fetch_verified URL SHA256 FILE: download to FILE unless it is there; resumes; FILE exists only with the right checksum.
fetch_verified() {
  local url=$1 sha256=$2 file=$3 got
  [ -e "$file" ] && return 0
  mkdir -p "$(dirname "$file")"
  log "downloading $url"
  curl --fail --location --silent --show-error --retry 3 --connect-timeout 15 --continue-at - --output "$file.part" "$url" ||
    die "could not download $url" "check the network and run the same command again: it resumes"
  got=$(sha256sum "$file.part" | cut -d' ' -f1)
  if [ "$got" != "$sha256" ]; then
    rm -f "$file.part"
    die "$url has sha256 $got, expected $sha256" "run again; if it repeats, the pinned file was replaced: correct its row in packer/bases.toml"
  fi
  mv "$file.part" "$file"
}
