#!/usr/bin/env bash
# Install the distribution packages that a make target needs on this machine: lists what is missing, then asks apt for it.
# Needs root or sudo for that, else prints the exact command. Nothing missing, nothing done.
#
# usage: host_packages.sh image|oci|test|run|bench|stress|estimate
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/lib.sh

python=(python3 python3-venv)
compiler=(g++ cmake ninja-build)
sets=(cmake ninja-build clang lld llvm ccache binutils mmdebstrap debian-archive-keyring uidmap curl qemu-utils fdisk e2fsprogs)
vm=(qemu-system-arm qemu-efi-aarch64 qemu-utils genisoimage)
case ${1:-} in
  run) packages=("${python[@]}" "${compiler[@]}") ;;
  stress) packages=("${python[@]}" "${compiler[@]}" nginx) ;;
  bench) packages=("${python[@]}" "${compiler[@]}" binutils) ;;
  estimate) packages=("${python[@]}" "${compiler[@]}" "${sets[@]}" llvm-19) ;;
  oci) packages=("${python[@]}" "${sets[@]}") ;;
  test) packages=("${python[@]}" "${compiler[@]}" "${vm[@]}" binutils shellcheck nginx chromium curl iptables openssh-client
    fdisk packer) ;;
  image) packages=("${python[@]}" "${sets[@]}" "${vm[@]}" ipxe-qemu xorriso mtools dosfstools openssh-client packer) ;;
  *) die "usage: host_packages.sh image|oci|test|run|bench|stress|estimate" ;;
esac
# Our kernels are tested for other CPUs too: under QEMU's user mode, by SIMDe.
if [ "${1}" = test ] && [ "$(uname -m)" != aarch64 ]; then packages=(qemu-user-static g++-aarch64-linux-gnu libsimde-dev "${packages[@]}"); fi
if [ "${1}" = image ] && [ "$(uname -m)" != aarch64 ]; then packages=(qemu-user-static arch-test "${packages[@]}"); fi

# has PACKAGE: installed as a package, or there as a command of that name or purpose by another way.
has() {
  case $1 in
    python3) command -v "${PYTHON:-python3}" >/dev/null && return 0 ;;
    python3-venv) "${PYTHON:-python3}" -c 'import ensurepip, venv' 2>/dev/null && return 0 ;;
    cmake | g++ | clang | curl | packer | shellcheck | chromium | mmdebstrap) command -v "$1" >/dev/null && return 0 ;;
    nginx) command -v nginx >/dev/null && return 0 ;;
  esac
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null || true)" = installed ]
}

missing=()
for package in "${packages[@]}"; do has "$package" || missing+=("$package"); done

if [ ${#missing[@]} -gt 0 ]; then
  command -v apt-get >/dev/null ||
    die "this machine has no apt-get; needed are: ${missing[*]}" "install their like with your package manager"
  log "make $1 needs packages that are missing here: ${missing[*]}"
  command="apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
  if [ "$(id -u)" = 0 ]; then
    as_root=(env DEBIAN_FRONTEND=noninteractive)
  elif command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
    as_root=(sudo env DEBIAN_FRONTEND=noninteractive)
  else
    die "installing them needs root" "sudo sh -c '$command'"
  fi
  log "  $command"
  "${as_root[@]}" apt-get -qq update >/dev/null 2>&1 || die "apt-get update failed" "sudo apt-get update   # and read what it says"
  # Newer releases have no Packer; bake/make_image.py and packer.sh say where it comes from then.
  if [ "${missing[-1]}" = packer ] && ! apt-cache show packer >/dev/null 2>&1; then unset 'missing[-1]'; fi
  "${as_root[@]}" apt-get -qq -y -o Dpkg::Use-Pty=0 install --no-install-recommends "${missing[@]}" >/dev/null 2>&1 ||
    die "apt-get could not install them" "sudo sh -c '$command'   # and read what it says"
fi

# On x86-64 the stand-in base runs Arm programs while it is built: the kernel has to know who interprets them. Where systemd
# runs, the package has seen to it.
if [ "$1" = image ] && [ "$(uname -m)" != aarch64 ] && ! arch-test arm64 >/dev/null 2>&1; then
  binfmt=/proc/sys/fs/binfmt_misc
  log "registering qemu-aarch64 for Arm programs in $binfmt"
  root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }
  [ -e $binfmt/register ] || root mount -t binfmt_misc binfmt_misc $binfmt ||
    die "Arm programs cannot run here and binfmt_misc cannot be mounted" "sudo mount -t binfmt_misc binfmt_misc $binfmt"
  [ -e $binfmt/qemu-aarch64 ] || root sh -c "cat /usr/lib/binfmt.d/qemu-aarch64.conf >$binfmt/register" ||
    die "Arm programs cannot run here" "sudo systemctl restart systemd-binfmt"
fi
