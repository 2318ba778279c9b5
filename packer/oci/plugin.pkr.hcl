# What this directory needs and packer/local must not ask for: Packer 1.6.6 knows no required_plugins.
# scripts/cloud/bake.py runs `packer init` on it.

packer {
  required_version = ">= 1.10.0"

  required_plugins {
    oracle = {
      source  = "github.com/hashicorp/oracle"
      version = ">= 1.1.1"
    }
  }
}
