#!/usr/bin/env bash
# On the image: remove every trace of the bake and of this one machine, so that each node is born new. check_hygiene.sh is its
# twin: what is removed here is looked for there.
set -euo pipefail

apt-get -qq clean
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/debconf/*-old /var/lib/dpkg/*-old
rm -rf /var/tmp/stage /var/tmp/stage.tar /var/tmp/inventory /root/.cache /root/.local /home/*/.cache /home/*/.sudo_as_admin_successful

cloud-init clean --logs --seed
rm -rf /var/lib/cloud/* /etc/netplan/50-cloud-init.yaml /etc/ssh/sshd_config.d/50-cloud-init.conf

rm -f /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub /etc/ssl/private/ssl-cert-snakeoil.key
rm -f /var/lib/systemd/random-seed /var/lib/systemd/credential.secret /var/lib/dbus/machine-id /boot/efi/loader/random-seed
: >/etc/machine-id
: >/etc/hostname
rm -f /var/lib/dhcp/* /var/lib/systemd/timesync/clock /run/systemd/netif/leases/* /var/lib/NetworkManager/*

journalctl --quiet --flush --rotate 2>/dev/null || true
systemctl stop systemd-journald.socket systemd-journald-dev-log.socket systemd-journald-audit.socket systemd-journald.service 2>/dev/null || true
rm -rf /var/log/journal/*
find /var/log -type f -delete
rm -f /root/.bash_history /home/*/.bash_history /root/.lesshst /root/.viminfo /root/.wget-hsts
find /tmp /var/tmp -mindepth 1 -maxdepth 1 -not -name 'script_*' -not -name 'systemd-private-*' -exec rm -rf {} +

# The bake's login. The account stays, locked, as on every cloud image: cloud-init gives it the next owner's key.
rm -f /root/.ssh/authorized_keys
for home in /home/*; do
  rm -f "$home/.ssh/authorized_keys"
  passwd --quiet --lock "${home##*/}"
done
passwd --quiet --lock root

fstrim --all || true
sync
