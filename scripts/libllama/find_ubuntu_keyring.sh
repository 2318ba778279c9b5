#!/usr/bin/env bash
# Print a file with Ubuntu's archive keys: the host's, or the one inside a verified Ubuntu cloud image.
#
# Debian 12 has no package with these keys, and keys fetched over plain HTTP would prove nothing. The image was checked
# against its pinned sha256, so what it carries can be trusted. Reads the file system without mounting it: needs no root.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

if [ $# -ne 1 ] || [ "$1" = --help ]; then
  log "usage: scripts/libllama/find_ubuntu_keyring.sh IMAGE   (a qcow2 whose sha256 was verified)"
  [ "${1:-}" = --help ] && exit 0 || exit 2
fi
image=$1
inside=/usr/share/keyrings/ubuntu-archive-keyring.gpg

if [ -r "${HOST_KEYRING:=$inside}" ]; then
  printf '%s\n' "$HOST_KEYRING"
  exit 0
fi
keyring=$(cache_root)/keyring/$(sha256sum "$image" | cut -c1-16).gpg
if [ ! -e "$keyring" ]; then
  mkdir -p "$(dirname "$keyring")"
  part=$(mktemp -d "$keyring.XXXXXX")
  trap 'rm -rf "$part"' EXIT
  qemu-img convert -O raw "$image" "$part/disk" || die "$image: qemu-img cannot read it"
  # The root partition is the largest. sfdisk counts in sectors of 512 bytes.
  start=$(PATH=$PATH:/usr/sbin sfdisk --dump "$part/disk" | tr -d ' ' |
    sed -n 's/.*start=\([0-9]*\),size=\([0-9]*\),.*/\2 \1/p' | sort -n | tail -n 1 | cut -d' ' -f2)
  [ -n "$start" ] || die "$image: no partition table"
  PATH=$PATH:/usr/sbin debugfs -R "dump $inside $part/keys" "$part/disk?offset=$((start * 512))" >&2
  [ -s "$part/keys" ] || die "$image: holds no $inside"
  mv "$part/keys" "$keyring"
fi
printf '%s\n' "$keyring"
