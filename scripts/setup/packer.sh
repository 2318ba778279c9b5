#!/usr/bin/env bash
# Give a Packer that can bake in OCI: the pinned one of packer/tools with its oracle plugin, built once where Go is new
# enough, else the one that is installed. Says on stderr which; prints the path of its `packer` as the last line.
# PACKER=/path/to/packer overrides both.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/lib.sh

tools=packer/tools
core=github.com/hashicorp/packer
plugin=github.com/hashicorp/packer-plugin-oracle

# finish PACKER WHY: say what is used and answer with it.
finish() {
  local version
  version=$("$1" version | sed -n '1s/^Packer v//p')
  [ -n "$version" ] || die "$1 does not answer \`version\` like Packer" "PACKER=/path/to/packer make ..."
  log "packer $version: $1 ($2)"
  printf '%s\n' "$1"
  exit 0
}

# use_installed WHY: the fallback, for machines without a new Go.
use_installed() {
  local installed
  installed=$(command -v packer) ||
    die "no Packer: none is installed, and it cannot be built here ($1)" "install Packer, or Go $go_needed or newer"
  finish "$installed" "installed; not built because $1"
}

# pinned FOLDER MODULE: its version in that go.mod, without the v.
pinned() { awk -v module="$2" '$1 == "require" && $2 == module { sub(/^v/, "", $3); print $3 }' "$tools/$1/go.mod"; }

[ -z "${PACKER:-}" ] || finish "$PACKER" "from PACKER"

go_needed=$(awk '$1 == "go" { print $2 }' "$tools"/*/go.mod | sort -V | tail -n 1)
PATH=$PATH:/usr/local/go/bin
command -v go >/dev/null || use_installed "Go is not installed"
go_version=$(go env GOVERSION | sed 's/^go//')
oldest=$(printf '%s\n' "$go_needed" "$go_version" | sort -V | head -n 1)
[ "$oldest" = "$go_needed" ] || use_installed "Go $go_version is older than $go_needed"

key=$({ cat "$tools"/*/go.mod "$tools"/*/go.sum scripts/setup/packer.sh; go version; } | sha256sum | cut -c1-16)
home=$(cache_root)/packer/$key
if [ ! -e "$home" ]; then
  core_version=$(pinned packer "$core")
  plugin_version=$(pinned oracle "$plugin")
  log "building Packer $core_version and its oracle plugin $plugin_version: 5 to 10 minutes on 2 cores, once"
  mkdir -p "$(dirname "$home")"
  part=$(mktemp -d "$home.XXXXXX")
  trap 'rm -rf "$part"' EXIT
  export CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS="-p=2 -mod=readonly -trimpath -buildvcs=false"
  # fetch FOLDER MODULE, build FOLDER MODULE FILE
  fetch() { go list -C "$tools/$1" -deps "$2" >/dev/null; }
  build() { nice -n 5 go build -C "$tools/$1" -ldflags "-s -w" -o "$3" "$2" >&2; }
  { fetch packer "$core" && fetch oracle "$plugin"; } || use_installed "its Go modules could not be downloaded"
  build packer "$core" "$part/packer.bin"
  build oracle "$plugin" "$part/plugin"

  # Packer finds a plugin by folder (source address), file name (version, protocol, system) and the checksum beside it.
  api=$("$part/plugin" describe | sed -n 's/.*"api_version":"\(x[0-9.]*\)".*/\1/p')
  name=packer-plugin-oracle_v${plugin_version}_${api}_$(go env GOOS)_$(go env GOARCH)
  folder=$part/plugins/github.com/hashicorp/oracle
  mkdir -p "$folder"
  mv "$part/plugin" "$folder/$name"
  sha256sum "$folder/$name" | cut -d' ' -f1 | tr -d '\n' >"$folder/${name}_SHA256SUM"

  # The command itself is two lines, so that whoever calls it needs to know nothing of plugin folders.
  cat >"$part/packer" <<WRAPPER
#!/bin/sh
export PACKER_PLUGIN_PATH="\${PACKER_PLUGIN_PATH:-$home/plugins}" CHECKPOINT_DISABLE=1
exec "$home/packer.bin" "\$@"
WRAPPER
  chmod 755 "$part" "$part/packer"
  mv -T "$part" "$home" || [ -e "$home/packer" ] || die "could not keep Packer in $home"
fi
finish "$home/packer" "built from packer/tools with Go $go_version"
