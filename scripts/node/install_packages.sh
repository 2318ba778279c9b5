#!/usr/bin/env bash
# On the image: install the few distribution packages a node runs on, and remove what a cloud base has that a node does not use.
set -euo pipefail
. /var/tmp/stage/scripts/lib.sh
export DEBIAN_FRONTEND=noninteractive

wanted=(nginx python3 python3-venv libopenblas0-pthread curl)
unwanted=(lxd-agent-loader lxd-installer unattended-upgrades apport pollinate popularity-contest landscape-common
  packagekit multipath-tools modemmanager udisks2 ubuntu-advantage-tools ubuntu-pro-client)

# Oracle's platform image carries its cloud agent as a snap: it reports the metrics that autoscaling and alarms read.
snap list oracle-cloud-agent >/dev/null 2>&1 || unwanted+=(snapd)

apt_get() { apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 -qq -y "$@" >/dev/null; }

installed=()
for package in "${unwanted[@]}"; do
  case $(dpkg-query -W -f='${db:Status-Abbrev}' "$package" 2>/dev/null || true) in
    ii*) installed+=("$package") ;;
  esac
done
if [ ${#installed[@]} -gt 0 ]; then
  log "removing ${installed[*]}"
  apt_get purge "${installed[@]}"
fi

log "installing ${wanted[*]}"
# The image is configured from /etc in the stage; nothing starts half configured.
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
apt_get -o Acquire::Languages=none update
apt_get --no-install-recommends install "${wanted[@]}"
apt_get autoremove --purge
rm /usr/sbin/policy-rc.d

nginx -v
python3 --version
