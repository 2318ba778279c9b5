#!/usr/bin/env bash
# On the image: boot straight to the service. Nothing is installed or upgraded at boot, nothing waits for what a node does not
# use, cloud-init does only what a node needs, and the console is the serial one.
set -euo pipefail
. /var/tmp/stage/scripts/lib.sh

# Nodes are replaced by new images, not upgraded in place.
units=(apt-daily.timer apt-daily-upgrade.timer apt-daily.service apt-daily-upgrade.service man-db.timer dpkg-db-backup.timer
  motd-news.timer e2scrub_all.timer e2scrub_reap.service update-notifier-download.timer update-notifier-motd.timer
  fwupd-refresh.timer ua-timer.timer ModemManager.service
  multipathd.service multipathd.socket lvm2-monitor.service
  systemd-networkd-wait-online.service NetworkManager-wait-online.service)
mapfile -t present < <(systemctl list-unit-files --no-legend "${units[@]}" | awk '{ print $1 }')
log "masking ${present[*]}"
systemctl --quiet mask "${present[@]}"

# GRUB: no menu wait, serial console where OCI and QEMU show it.
mkdir -p /etc/default/grub.d
cat >/etc/default/grub.d/90-llamakiln.cfg <<'GRUB'
GRUB_TIMEOUT=0
GRUB_RECORDFAIL_TIMEOUT=0
GRUB_DISABLE_OS_PROBER=true
GRUB_CMDLINE_LINUX_DEFAULT="console=tty1 console=ttyAMA0"
GRUB_CMDLINE_LINUX=""
GRUB_TERMINAL=console
GRUB
update-grub 2>/dev/null
grep -q 'root=UUID=' /boot/grub/grub.cfg || die "the boot menu does not name the root file system by UUID"
log "boot: $(grep -m1 -o 'console=ttyAMA0' /boot/grub/grub.cfg)"
