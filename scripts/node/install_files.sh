#!/usr/bin/env bash
# On the image: packer/files mirrors /; copy it over, fill in the baked model, check every configuration, enable the units.
set -euo pipefail
. /var/tmp/stage/scripts/lib.sh
. /var/tmp/stage/bake.env
require_env MODEL_NAME MODEL_FILE MODEL_CONTEXT

cp -r --no-preserve=ownership /var/tmp/stage/files/. /
chown root:root /opt/llamakiln/bin/*
chmod 755 /opt/llamakiln/bin/*

# llm.env ships with every setting commented out; the bake sets what it knows and leaves the rest to the defaults.
set_setting() {
  grep -q "^#$1=" /etc/llm/llm.env || die "llm.env has no line #$1= to fill in"
  sed -i "s|^#$1=.*|$1=$2|" /etc/llm/llm.env
}
set_setting LLM_MODEL "/opt/llamakiln/models/$MODEL_FILE"
set_setting LLM_MODEL_NAME "$MODEL_NAME"
set_setting LLM_CONTEXT "$MODEL_CONTEXT"
for setting in $MODEL_SETTINGS; do set_setting "${setting%%=*}" "${setting#*=}"; done
chmod 644 /etc/llm/llm.env

install -m 644 /var/tmp/stage/image.json /etc/llm/image.json
rm -f /etc/nginx/sites-enabled/default

nginx -t -q
systemd-analyze verify /etc/systemd/system/llm.service
systemctl daemon-reload
systemctl --quiet enable nginx.service llm.service
