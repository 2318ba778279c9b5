//go:build tools

// Package tools names the program that scripts/setup/terraform.sh builds here, so that go.mod and go.sum pin it and all
// it needs. The provider's own tags (v4.x) are no Go module versions, so go.mod names a commit: release 4.0.4 and
// what followed until 17 January 2023.
package tools

import _ "github.com/hashicorp/terraform-provider-tls"
