//go:build tools

// Package tools names the program that scripts/setup/terraform.sh builds here, so that go.mod and go.sum pin it and all
// it needs: Terraform as Resource Manager runs it.
package tools

import _ "github.com/hashicorp/terraform"
