#!/usr/bin/env bash
# On the image: list what is installed, for the bill of materials that is written where the bake was started.
set -euo pipefail
inventory=/var/tmp/inventory
rm -rf "$inventory"
mkdir -p "$inventory"

# shellcheck disable=SC2016  # dpkg-query's own placeholders
dpkg-query --show --showformat='${Package}\t${Version}\t${Architecture}\t${source:Package}\n' >"$inventory/dpkg.tsv"
/opt/llamakiln/venv/bin/python - >"$inventory/pip.json" <<'PYTHON'
import json
from importlib.metadata import distributions

found = {d.metadata["Name"]: d.version for d in distributions() if "/opt/llamakiln/" in str(d.locate_file(""))}
print(json.dumps([{"name": name, "version": found[name]} for name in sorted(found)], indent=1))
PYTHON
cp /etc/os-release "$inventory/os-release"
uname -r >"$inventory/kernel"
chmod -R a+rX "$inventory"
wc -l "$inventory"/*
