#!/usr/bin/env bash
# Give Oracle's own Terraform provider, in the release that rm-stack names, for the tests of the stack: `terraform init`
# asks the registry for it once, and it is kept. Prints its path as the last line. Where the registry does not answer in
# seconds it fails, and says so.
#
# usage: provider.sh TERRAFORM_HOME   (what terraform.sh printed)
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/lib.sh

terraform=$1/terraform.bin
version=$(sed -n '/source *= *"oracle\/oci"/,/}/s/.*version *= *">= \(.*\)"/\1/p' rm-stack/versions.tf)
[ -n "$version" ] || die "rm-stack/versions.tf names no release of oracle/oci"

binary=$(cache_root)/provider/$version/terraform-provider-oci
if [ ! -x "$binary" ]; then
  log "asking the registry for provider oracle/oci $version"
  mkdir -p "$(dirname "$binary")"
  work=$(mktemp -d "$binary.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  cat >"$work/main.tf" <<CONFIGURATION
terraform {
  required_providers {
    oci = {
      source  = "oracle/oci"
      version = "$version"
    }
  }
}
CONFIGURATION
  # The person's own configuration counts, which may name a mirror; the wrapper beside the program would hide it.
  CHECKPOINT_DISABLE=1 TF_REGISTRY_CLIENT_TIMEOUT=10 TF_REGISTRY_DISCOVERY_RETRY=0 \
    timeout 900 "$terraform" -chdir="$work" init -input=false -no-color >&2 ||
    die "the registry did not give provider oracle/oci $version" "check the network, or PROVIDER=/path/to/terraform-provider-oci"
  found=$(find "$work/" -follow -type f -name 'terraform-provider-oci*' | head -n 1)
  [ -n "$found" ] || die "terraform init ended well, but brought no provider"
  install -m 755 "$found" "$work/program"
  mv -T "$work/program" "$binary"
fi
printf '%s\n' "$binary"
