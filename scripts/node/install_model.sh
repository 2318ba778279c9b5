#!/usr/bin/env bash
# On the image: the model, root-owned and read-only, with its checksum beside it and verified after the copy.
set -euo pipefail
. /var/tmp/stage/scripts/lib.sh
. /var/tmp/stage/bake.env
require_env MODEL_NAME MODEL_FILE MODEL_SHA256
models=/opt/llamakiln/models

install -d -m 755 "$models"
mv "/var/tmp/stage/model/$MODEL_FILE" "$models/$MODEL_FILE"
printf '%s  %s\n' "$MODEL_SHA256" "$MODEL_FILE" >"$models/$MODEL_FILE.sha256"
chown root:root "$models"/*
chmod 444 "$models"/*
cd "$models"
sha256sum --check "$MODEL_FILE.sha256" || die "$MODEL_FILE was damaged on its way onto the image" "run make image again"
