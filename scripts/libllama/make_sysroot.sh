#!/usr/bin/env bash
# Make the arm64 sysroot of one Debian or Ubuntu release, once, and print its folder.
#
# Compiling against the base image's own C and C++ libraries is what keeps the result from needing newer ones than the
# image has, whatever the host runs. Packages are only extracted, never run: no emulation is needed.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

usage() {
  cat <<'TEXT'
usage: scripts/libllama/make_sysroot.sh [--print-key] SUITE
  SUITE        bookworm, jammy or noble
  --print-key  print the name under which the sysroot is cached, make nothing
environment: ARCHIVE_KEYRING  file with the release's archive keys, if the host has no package with them
             UBUNTU_MIRROR    default http://ports.ubuntu.com/ubuntu-ports
TEXT
}

print_key=false
suite=
for arg in "$@"; do
  case $arg in
    --help) usage; exit 0 ;;
    --print-key) print_key=true ;;
    -*) usage >&2; exit 2 ;;
    *) suite=$arg ;;
  esac
done

# gcc: the release's default GCC, whose libstdc++ headers and libgcc we link against.
case $suite in
  bookworm) gcc=12 distribution=debian ;;
  jammy) gcc=11 distribution=ubuntu ;;
  noble) gcc=13 distribution=ubuntu ;;
  *) usage >&2; die "SUITE='$suite': must be bookworm, jammy or noble" ;;
esac
packages=libc6-dev,linux-libc-dev,libgcc-$gcc-dev,libstdc++-$gcc-dev,libopenblas-pthread-dev

key=$suite-$(printf '%s' "$packages" "layout 1" | sha256sum | cut -c1-12)
if $print_key; then printf '%s\n' "$key"; exit 0; fi

dir=$(cache_root)/sysroot/$key
if [ ! -d "$dir" ]; then
  command -v mmdebstrap >/dev/null || die "mmdebstrap is not installed" "apt-get install mmdebstrap"
  keyring=${ARCHIVE_KEYRING:-/usr/share/keyrings/$distribution-archive-keyring.gpg}
  source=()
  way_out="apt-get install debian-archive-keyring"
  if [ $distribution = ubuntu ]; then
    way_out="apt-get install ubuntu-keyring; on Debian set ARCHIVE_KEYRING to what scripts/libllama/find_ubuntu_keyring.sh prints"
    mirror=${UBUNTU_MIRROR:-http://ports.ubuntu.com/ubuntu-ports}
    source=("deb $mirror $suite main universe" "deb $mirror $suite-updates main universe")
  fi
  [ -r "$keyring" ] || die "$keyring is missing, so the packages of $suite cannot be verified" "$way_out"
  mkdir -p "$(dirname "$dir")"
  part=$(mktemp -d "$dir.XXXXXX")
  trap 'rm -rf "$part"' EXIT
  mkdir "$part/root"
  log "making the arm64 sysroot of $suite"
  # Through tar, which is the one way out of mmdebstrap that needs no root.
  mmdebstrap --quiet --variant=extract --architectures=arm64 --aptopt='Acquire::Languages "none"' --format=tar \
    --include="$packages" --dpkgopt='path-exclude=/usr/share/*' --keyring="$keyring" \
    "$suite" - ${source[@]+"${source[@]}"} | tar -x -C "$part/root" --no-same-owner --exclude=./{dev,etc,tmp,var} ||
    die "could not make the arm64 sysroot of $suite" "check that the release's package servers can be reached, then run again"
  # An absolute link leads out of the sysroot: without libm.so the linker would quietly take the static libm.a instead.
  find "$part/root" -type l -lname '/*' -printf '%l\t%p\n' | while IFS=$'\t' read -r target link; do
    ln -snfr "$part/root$target" "$link"
  done
  [ -e "$part/root/lib" ] || ln -s usr/lib "$part/root/lib" # newer releases have no /lib until base-files is installed
  chmod 755 "$part/root"
  mv -T "$part/root" "$dir" 2>/dev/null || [ -d "$dir" ] # another run may have been faster
fi
printf '%s\n' "$dir"
