#!/usr/bin/env bash
# On the image, last of all: look for what must not be on it. Reports every finding before it fails.
set -euo pipefail
findings=0
finding() { echo "hygiene: $*" >&2; findings=$((findings + 1)); }

absent() { # absent WHY PATH...: none of the paths may exist
  local why=$1 path
  shift
  for path in "$@"; do
    if [ -e "$path" ]; then finding "$path ($why)"; fi
  done
}
shopt -s nullglob

absent "host keys must differ between nodes" /etc/ssh/ssh_host_*_key*
absent "a key that opens every node" /root/.ssh/authorized_keys /home/*/.ssh/authorized_keys /etc/ssl/private/ssl-cert-snakeoil.key
absent "cloud-init would think it had run" /var/lib/cloud/*
absent "left over from the bake" /var/tmp/stage /var/tmp/stage.tar /var/tmp/inventory /usr/sbin/policy-rc.d
absent "shell history" /root/.*_history /home/*/.*_history
absent "caches" /var/lib/apt/lists/*_Packages /var/cache/apt/archives/*.deb /root/.cache /home/*/.cache
absent "shared entropy" /var/lib/systemd/random-seed
absent "logs of the bake" /var/log/journal/*/* /var/log/cloud-init*.log /var/log/dpkg.log /var/log/apt/*
for tool in gcc cc g++ clang cmake make git ld pip pip3 packer; do
  if command -v "$tool" >/dev/null; then finding "$(command -v "$tool") (a build tool)"; fi
done

if [ -s /etc/machine-id ]; then finding "/etc/machine-id is not empty (nodes would share it)"; fi
while IFS=: read -r user password _; do
  case $password in
    '!'* | '*'*) ;;
    *) finding "account $user has a password" ;;
  esac
done </etc/shadow
while read -r file; do finding "$file (private key)"; done < <(
  grep -rlE --exclude-dir=ssl -e '-----BEGIN ([A-Z]+ )?PRIVATE KEY-----' /etc /root /home /opt 2>/dev/null | grep -v '\.py$' || true)
while read -r file; do finding "$file (writable by anyone)"; done < <(
  find /opt/llamakiln /etc/llm -perm -o+w ! -type l)

if [ "$findings" -gt 0 ]; then echo "error: $findings finding(s); the image is not fit to be published" >&2; exit 1; fi
echo "hygiene: nothing found"
