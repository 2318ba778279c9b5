#!/usr/bin/env bash
# Print everything the image tests want to know of a node, in one go, as root: `ssh NODE sudo bash -s < facts.sh`.
# One `@@ name` line before each fact. Only reads; a command that fails prints why, and the test that needs it fails.
# One run instead of a hundred, because under emulation every login and every process costs seconds.
# shellcheck disable=SC2016  # quoted programs expand their own variables
set -uo pipefail
export LC_ALL=C SYSTEMD_PAGER='' SYSTEMD_COLORS=0 SYSTEMD_BUS_TIMEOUT=5min # emulated, on a busy host

fact() {
  printf '\n@@ %s\n' "$1"
  shift
  "$@" </dev/null 2>&1 || true # standard input may be this very script
}
pid=$(systemctl show -P MainPID llm.service)

# -- boot ---------------------------------------------------------------------------------------------------------------
fact failed_units systemctl --failed --plain --no-legend
fact system_state systemctl is-system-running
fact journal_boots journalctl --list-boots --no-pager --quiet
fact machine_id cat /etc/machine-id
fact command_line cat /proc/cmdline
fact cpu_features grep -m1 '^Features' /proc/cpuinfo
fact disks lsblk --json --bytes --paths -o NAME,TYPE,SIZE,PTTYPE,PARTTYPENAME,FSTYPE,MOUNTPOINT,UUID
fact root_size findmnt --noheadings --bytes -o SOURCE,SIZE /
fact fstab grep -v '^#' /etc/fstab
fact swaps swapon --show --noheadings
fact time_units systemctl is-active systemd-timesyncd.service chrony.service
fact analyze_time systemd-analyze time
fact analyze_blame bash -c 'systemd-analyze blame | head -n 10'
fact analyze_chain systemd-analyze critical-chain llm.service
fact unit_links find /etc/systemd/system /lib/systemd/system -type l -printf '%p -> %l\n'
fact timers systemctl list-timers --no-legend --plain
fact packages dpkg-query -W -f '${Package}\n'

# -- network ------------------------------------------------------------------------------------------------------------
fact listening ss -H -lntup
fact sshd sshd -T
fact firewall_v4 cat /etc/iptables/rules.v4
fact firewall_v6 cat /etc/iptables/rules.v6

# -- the service --------------------------------------------------------------------------------------------------------
fact llm_unit systemctl show llm.service -p Type,User,Group,MainPID,ActiveState,SubState,UnitFileState,Restart
fact nginx_unit systemctl show nginx.service -p ActiveState,UnitFileState
fact llm_security bash -c 'systemd-analyze security llm.service | tail -n 1'
fact llm_limits cat "/proc/$pid/limits"
fact llm_maps bash -c "grep -o '/opt/llamakiln/lib/[^ ]*' /proc/$pid/maps | sort -u"
fact llm_owner stat -c %U "/proc/$pid"
fact llm_log journalctl -b -u llm.service --no-pager -o cat
fact llm_env cat /etc/llm/llm.env
fact image_json cat /etc/llm/image.json
fact os_release cat /etc/os-release
fact sets bash -c 'cd /opt/llamakiln/lib && for file in */set.json; do echo "${file%/*} $(tr -d "\n" <"$file")"; done'
fact unresolved bash -c 'ldd /opt/llamakiln/lib/*/llama-* | grep "not found"' # they need every library of their set
fact models bash -c 'stat -c "%a %U %G %s %n" /opt/llamakiln/models/*'
fact model_sums bash -c 'cd /opt/llamakiln/models && sha256sum -c ./*.sha256'
fact model_digests bash -c 'cat /opt/llamakiln/models/*.sha256'
fact wheels bash -c 'cd /opt/llamakiln/venv/lib/python3*/site-packages && ls -d -- *.dist-info'
fact bench_help bash -c '/opt/llamakiln/bin/llama-bench --help; echo "exit $?"'

# -- what must not be there ---------------------------------------------------------------------------------------------
fact build_tools bash -c 'for tool in cc gcc g++ clang cmake make ninja git ld as go cargo packer; do command -v $tool; done'
# One walk for all questions: kind, time of change and path of each file that somebody asks about.
fact found find / -ignore_readdir_race -xdev \
  \( -perm -0002 ! -type l ! \( -type d -perm -1000 \) -printf 'writable %T@ %p\n' \) , \
  \( -type f -perm /6000 -printf 'set_id %T@ %p\n' \) , \
  \( -name '.*_history' -o -name .lesshst -o -name .viminfo -o -name .wget-hsts \) -printf 'history %T@ %p\n' , \
  \( -name 'authorized_keys*' -type f -printf 'authorized_keys %T@ %p\n' \)
fact foreign_owned find /opt/llamakiln /etc/llm ! -user root -printf '%u %p\n'
fact group_writable find /opt/llamakiln /etc/llm -perm -0020 ! -type l -printf '%m %p\n'
fact capabilities python3 -c '
import os
for folder in ("/usr/bin", "/usr/sbin", "/usr/libexec", "/opt/llamakiln/bin", "/opt/llamakiln/venv/bin"):
    for path in (entry.path for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False)):
        if "security.capability" in os.listxattr(path):
            print(path)
'
fact host_keys bash -c 'cat /etc/ssh/ssh_host_*_key.pub'
fact host_keys_made bash -c 'stat -c "%Y %n" /etc/ssh/ssh_host_*_key'
fact authorized_keys bash -c 'cat /root/.ssh/authorized_keys /home/*/.ssh/authorized_keys 2>/dev/null'
fact baked_at stat -c %Y /etc/llm/image.json
fact passwd getent passwd
fact passwords awk -F: '$2 !~ /^[!*]/ {print $1}' /etc/shadow
fact sudoers bash -c 'cat /etc/sudoers /etc/sudoers.d/* | grep -v "^#" | grep .'
fact homes find /home /root -mindepth 1 -maxdepth 2 -printf '%p\n'
fact apt_leftovers find /var/lib/apt/lists /var/cache/apt -type f ! -name lock -printf '%p\n'
fact caches bash -c 'ls -d /root/.cache/* /home/*/.cache/* /var/cache/pip 2>/dev/null'
fact bake_logs find /var/log -type f -size +0 \( -name 'dpkg.log*' -o -name 'alternatives.log*' -o -name 'bootstrap.log*' \
  -o -path '*/apt/*' -o -path '*/installer/*' -o -path '*/unattended-upgrades/*' -o -name '*.gz' -o -name '*.1' \) -printf '%p\n'
fact temporary find /tmp /var/tmp -ignore_readdir_race -xdev -mindepth 1 ! -path '*systemd-private-*' ! -name 'systemd-private-*' \
  ! -name '.*-unix' ! -path '/var/tmp/cloud-init*' ! -path '/tmp/testinfra*' ! -path '/tmp/snap-private-tmp*' -printf '%p\n'
fact private_keys bash -c 'find /etc /root /home /opt /var/lib /srv -xdev -type f -size -1024k ! -name "ssh_host_*_key" \
  ! -path "/var/lib/dpkg/*" -exec grep -lIE -e "-----BEGIN [A-Z ]*PRIVATE KEY-----" {} +'
fact cloud_runs bash -c 'grep -c "running .init-local. at" /var/log/cloud-init.log'
fact cloud_instances ls /var/lib/cloud/instances
fact cloud_sources bash -c 'grep -h "^datasource_list:" /etc/cloud/cloud.cfg.d/*.cfg | tail -n 1'
fact asset_tag cat /sys/class/dmi/id/chassis_asset_tag
fact user_data cat /run/user-data-was-read
fact cloud_result cat /run/cloud-init/result.json
fact cloud_config python3 -c '
import json
data = json.load(open("/run/cloud-init/instance-data-sensitive.json"))
merged = data.get("merged_system_cfg") or data.get("merged_cfg")
print(json.dumps({key: value for key, value in merged.items() if key.endswith("_modules")}))
'
printf '\n@@ end\n'
