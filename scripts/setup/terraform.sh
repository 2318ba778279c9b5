#!/usr/bin/env bash
# Give the Terraform that Resource Manager runs, built once from tests/stack/tools with the hashicorp/tls provider beside
# it, so that no provider is ever downloaded. Prints a folder as its last line: `terraform` in it runs with that provider,
# and tfplugin5.proto in it is the plugin protocol, for the stand-in of the OCI provider.
# TERRAFORM_HOME=/path overrides it.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/lib.sh

tools=tests/stack/tools
core=github.com/hashicorp/terraform
plugin=github.com/hashicorp/terraform-provider-tls

# pinned FOLDER MODULE: its version in that go.mod, without the v.
pinned() { awk -v module="$2" '$1 == "require" && $2 == module { sub(/^v/, "", $3); print $3 }' "$tools/$1/go.mod"; }

if [ -n "${TERRAFORM_HOME:-}" ]; then
  [ -x "$TERRAFORM_HOME/terraform" ] || die "TERRAFORM_HOME=$TERRAFORM_HOME: there is no terraform in it"
  printf '%s\n' "$TERRAFORM_HOME"
  exit 0
fi

core_version=$(pinned terraform "$core")
PATH=$PATH:/usr/local/go/bin
go_needed=$(awk '$1 == "go" { print $2 }' "$tools"/*/go.mod | sort -V | tail -n 1)
command -v go >/dev/null || die "Terraform $core_version is built here, and Go is not installed" "install Go $go_needed or newer"
go_version=$(go env GOVERSION | sed 's/^go//')
oldest=$(printf '%s\n' "$go_needed" "$go_version" | sort -V | head -n 1)
[ "$oldest" = "$go_needed" ] || die "Go $go_version is too old to build Terraform $core_version" "install Go $go_needed or newer"

key=$({ cat "$tools"/*/go.mod "$tools"/*/go.sum scripts/setup/terraform.sh; go version; } | sha256sum | cut -c1-16)
home=$(cache_root)/terraform/$key
if [ ! -e "$home" ]; then
  log "building Terraform $core_version and its tls provider: 2 to 4 minutes on 2 cores, once"
  mkdir -p "$(dirname "$home")"
  part=$(mktemp -d "$home.XXXXXX")
  trap 'rm -rf "$part"' EXIT
  export CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS="-p=2 -mod=readonly -trimpath -buildvcs=false"
  # build FOLDER MODULE FILE
  build() { nice -n 5 go build -C "$tools/$1" -ldflags "-s -w" -o "$3" "$2" >&2 || die "$2 could not be built" "check the network, then run again"; }
  build terraform "$core" "$part/terraform.bin"
  build tls "$plugin" "$part/terraform-provider-tls"
  source=$(go list -C "$tools/terraform" -m -f '{{.Dir}}' "$core")
  install -m 644 "$source/docs/plugin-protocol/tfplugin5.3.proto" "$part/tfplugin5.proto"

  # dev_overrides: Terraform takes the provider from here, with no `init` and no registry.
  cat >"$part/terraform.rc" <<CONFIG
provider_installation {
  dev_overrides {
    "hashicorp/tls" = "$home"
  }
}
CONFIG
  cat >"$part/terraform" <<WRAPPER
#!/bin/sh
export TF_CLI_CONFIG_FILE="$home/terraform.rc" CHECKPOINT_DISABLE=1
exec "$home/terraform.bin" "\$@"
WRAPPER
  chmod 755 "$part" "$part/terraform"
  built=$("$part/terraform.bin" version 2>/dev/null | sed -n '1s/^Terraform v//p')
  [ "$built" = "$core_version" ] || die "what was built answers as Terraform $built, not $core_version"
  mv -T "$part" "$home" || [ -e "$home/terraform" ] || die "could not keep Terraform in $home"
fi
log "terraform $core_version: $home (built from $tools with Go $go_version)"
printf '%s\n' "$home"
