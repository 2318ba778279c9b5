# Resource Manager runs Terraform 1.5.7, so nothing newer than 1.5 is used here.
terraform {
  required_version = ">= 1.5.0"

  required_providers {
    # The release whose attribute names this stack was written and tested against.
    oci = {
      source  = "oracle/oci"
      version = ">= 8.28.0"
    }
    # Only for https = "self-signed".
    tls = {
      source  = "hashicorp/tls"
      version = ">= 4.0.4"
    }
  }
}

# Credentials come from Resource Manager, or from ~/.oci/config and OCI_* variables on the command line.
provider "oci" {
  region = var.region
}
