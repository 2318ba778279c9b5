#!/usr/bin/env bash
# On the image: unpack the stage, everything the bake brings along, and give the other scripts their common words.
set -euo pipefail
rm -rf /var/tmp/stage
mkdir -p /var/tmp/stage
tar --extract --no-same-owner --file /var/tmp/stage.tar --directory /var/tmp/stage
rm /var/tmp/stage.tar
ls /var/tmp/stage
