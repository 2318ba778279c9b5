# The oracle-oci builder: launches an Arm instance from Oracle's newest Ubuntu 22.04 image, bakes on it, keeps an image of
# it. scripts/cloud/bake.py checks the account first, fills in the last group of variables, and afterwards makes the image
# usable on the A1 and A2 shapes, which this builder cannot.

locals {
  # Freeform tags of the instance and the image: the bake finds its image again by them. At most 100 characters each.
  tags = {
    product = "llamakiln"
    model   = var.model
    version = var.version
    bake    = var.bake
  }
}

source "oracle-oci" "node" {
  access_cfg_file         = var.oci_config_file
  access_cfg_file_account = var.oci_profile

  availability_domain = var.availability_domain
  compartment_ocid    = var.compartment_ocid

  # Newest platform image whose name fits; the regex leaves out the Minimal images and the x86-64 ones.
  base_image_filter {
    compartment_id           = var.compartment_ocid
    operating_system         = "Canonical Ubuntu"
    operating_system_version = "22.04"
    display_name_search      = "^Canonical-Ubuntu-22\\.04-aarch64-"
    shape                    = var.shape
  }

  shape = var.shape
  shape_config {
    ocpus         = var.ocpus
    memory_in_gbs = var.memory_gb
  }
  disk_size     = var.boot_volume_gb
  instance_name = "${var.image_name}-bake"
  instance_tags = local.tags

  # The instance answers only to IMDSv2: a request forged through a web server cannot read its metadata.
  instance_options_are_legacy_imds_endpoints_disabled = true

  create_vnic_details {
    subnet_id        = var.subnet_ocid
    assign_public_ip = !var.use_private_ip
    nsg_ids          = var.nsg_ocids
  }
  use_private_ip = var.use_private_ip

  image_name             = var.image_name
  image_compartment_ocid = var.image_compartment_ocid != "" ? var.image_compartment_ocid : var.compartment_ocid
  tags                   = local.tags

  communicator            = "ssh"
  ssh_username            = "ubuntu"
  ssh_timeout             = "15m"
  temporary_key_pair_type = "ed25519"
}
