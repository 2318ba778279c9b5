#!/usr/bin/env bash
# On the image: wait until cloud-init has finished with the base, so that it does not hold apt's lock or move the network.
set -euo pipefail
sudo cloud-init status --wait >/dev/null || {
  # A module of the base that failed is the base's affair: each step of the bake checks what it needs by itself.
  echo "warning: cloud-init was not content with the base:" >&2
  sudo cloud-init status --long >&2 || true
}
