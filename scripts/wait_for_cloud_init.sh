#!/usr/bin/env bash
# On the image: wait until cloud-init has finished with the base, so that it does not hold apt's lock or move the network.
set -euo pipefail
status=0
sudo cloud-init status --wait >/dev/null || status=$?
# 2 is "recoverable errors" (cloud-init 23.4 on): a base's own warning, not ours to fail on.
case $status in
  0 | 2) ;;
  *) sudo cloud-init status --long; exit "$status" ;;
esac
