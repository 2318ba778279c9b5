#!/usr/bin/env bash
# On the image: let tcp/80 in where the base filters it.
#
# OCI's Ubuntu images ship /etc/iptables/rules.v4 (and v6) that accept ssh and REJECT the rest of INPUT. The new rule goes
# before that REJECT line, in the saved file and in the running filter; everything else there, the InstanceServices
# chain above all, stays as it is. Bases without the file have no filter and need no rule.
#
# usage: configure_firewall.sh [DIRECTORY]     (default /etc/iptables)
set -euo pipefail
directory=${1:-/etc/iptables}
rule='-A INPUT -p tcp -m state --state NEW -m tcp --dport 80 -j ACCEPT'

for file in "$directory/rules.v4" "$directory/rules.v6"; do
  [ -e "$file" ] || { echo "no $file: nothing to open" >&2; continue; }
  if grep -qxF -- "$rule" "$file"; then
    echo "$file already accepts tcp/80" >&2
    continue
  fi
  # Before the first REJECT of INPUT; without one, before the filter table's COMMIT.
  awk -v rule="$rule" '
    /^\*/ { table = $0 }
    !done && table == "*filter" && (/^-A INPUT .*-j (REJECT|DROP)/ || /^COMMIT/) { print rule; done = 1 }
    { print }
  ' "$file" >"$file.new"
  chmod --reference="$file" "$file.new"
  mv "$file.new" "$file"
  grep -qxF -- "$rule" "$file" || { echo "error: $file has no filter table to open tcp/80 in" >&2; exit 1; }
  echo "$file accepts tcp/80" >&2
done
