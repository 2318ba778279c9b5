//go:build tools

// Package tools names the program that scripts/setup/packer.sh builds here, so that go.mod and go.sum pin it and all it
// needs. Packer and its plugin are two modules because they need different releases of the plugin SDK.
package tools

import _ "github.com/hashicorp/packer-plugin-oracle"
