#!/usr/bin/env bash
# Build the stand-in base: a bootable arm64 Debian disk (GPT, ESP, GRUB for UEFI, root by UUID, serial console, cloud-init,
# ssh), made from packages alone with mmdebstrap. For places that cannot reach Ubuntu's cloud images.
#
# usage: make_debian_base.sh SUITE OUT.qcow2
# Needs mmdebstrap, sfdisk, mkfs.vfat, mtools, qemu-img, and on x86-64 qemu-user-static with binfmt.
# Runs as root, or as a user with subordinate ids (mmdebstrap's unshare mode). Knows nothing of Packer or of our service.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../lib.sh"

[ $# -eq 2 ] || die "usage: make_debian_base.sh SUITE OUT.qcow2"
suite=$1 out=$2
mib=$((1024 * 1024))
esp_mib=64 disk_mib=2560
root_uuid=$(cat /proc/sys/kernel/random/uuid)
esp_id=$(od -An -N4 -tx4 /dev/urandom | tr -d ' ' | tr a-f A-F)
work=$(mktemp -d "${TMPDIR:-/tmp}/llamakiln-base.XXXXXX")
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"

# The kernel of the -cloud flavour has the virtio drivers and little else: its initramfs is quick to make under emulation.
packages=systemd-sysv,systemd-resolved,systemd-timesyncd,udev,dbus,libpam-systemd,linux-image-cloud-arm64,initramfs-tools,zstd
packages+=,grub-efi-arm64,openssh-server,cloud-init,cloud-guest-utils,fdisk,netplan.io,iproute2,ca-certificates,sudo
packages+=,e2fsprogs,dosfstools,curl,iptables

cat >"$work/etc.sh" <<'ETC'
# Runs on the host before the packages are unpacked further; $1 is the root.
set -eu
mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/etc/default/grub.d" "$1/etc/dpkg/dpkg.cfg.d"
# Only what a virtual machine boots from, and quick compression: made under emulation, read by a 100 MB/s disk.
printf 'MODULES=list\nCOMPRESS=zstd\nCOMPRESSLEVEL=1\n' >"$1/etc/initramfs-tools/conf.d/llamakiln"
printf '%s\n' virtio_pci virtio_blk virtio_scsi virtio_net sd_mod nvme ext4 crc32c_generic >"$1/etc/initramfs-tools/modules"
ETC

cat >"$work/disk.sh" <<'DISK'
# Runs on the host with the finished root as $1: writes both file systems into the disk file. A plain bind mount leaves out
# /proc, /sys and /dev, which mmdebstrap has mounted below $1.
set -eu
cat >"$1/etc/fstab" <<FSTAB
UUID=$root_uuid / ext4 errors=remount-ro,discard 0 1
UUID=${esp_id%????}-${esp_id#????} /boot/efi vfat umask=0077,nofail 0 1
FSTAB
mkdir -p "$1/boot/efi" "$1/boot/grub"
# The first boot's menu; the bake replaces it by update-grub's.
cat >"$1/boot/grub/grub.cfg" <<GRUB
linux /vmlinuz root=UUID=$root_uuid ro console=ttyAMA0
initrd /initrd.img
boot
GRUB
cat >"$work/grub-esp.cfg" <<GRUB
search.fs_uuid $root_uuid root
set prefix=(\$root)/boot/grub
configfile \$prefix/grub.cfg
GRUB
rm -f "$1"/etc/ssh/ssh_host_*_key* "$1/etc/hostname" "$1"/var/log/*.log
: >"$1/etc/machine-id"
mformat -i "$disk@@${mib}" -F -v ESP -N "$esp_id" -T $((esp_mib * 2048)) ::
mmd -i "$disk@@${mib}" ::/EFI ::/EFI/BOOT ::/EFI/debian
mcopy -i "$disk@@${mib}" "$1/usr/lib/grub/arm64-efi/monolithic/grubaa64.efi" ::/EFI/BOOT/BOOTAA64.EFI
mcopy -i "$disk@@${mib}" "$work/grub-esp.cfg" ::/EFI/debian/grub.cfg
mkdir "$work/root"
mount --bind "$1" "$work/root"
mke2fs -q -F -t ext4 -L root -U "$root_uuid" -d "$work/root" -E "offset=$(((1 + esp_mib) * mib))" "$disk" \
  $(((disk_mib - esp_mib - 2) * 1024))
umount "$work/root"
DISK

log "partitioning a ${disk_mib} MiB disk"
disk=$work/disk.raw
truncate -s "${disk_mib}M" "$disk"
sfdisk --quiet "$disk" <<PARTITIONS
label: gpt
start=2048, size=$((esp_mib * 2048)), type=uefi, name=ESP
start=$(((1 + esp_mib) * 2048)), size=$(((disk_mib - esp_mib - 2) * 2048)), type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, name=root
PARTITIONS

log "installing Debian $suite for arm64 (about 5 minutes under emulation)"
export work disk mib esp_mib disk_mib root_uuid esp_id
mmdebstrap --architectures=arm64 --variant=minbase --format=null \
  --include="$packages" \
  --aptopt='Acquire::Languages "none"' --aptopt='Acquire::Retries "3"' \
  --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
  --essential-hook="sh $work/etc.sh \"\$1\"" \
  --customize-hook="sh $work/disk.sh \"\$1\"" \
  "$suite" - >&2

log "compressing"
qemu-img convert -f raw -O qcow2 -c -W -m 4 "$disk" "$out.part"
mv "$out.part" "$out"
