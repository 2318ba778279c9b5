# The image: one that exists, or an import of the file that `make image` wrote, allowed on the Arm shapes.

locals {
  is_import = var.image_source == "link"
  is_qcow2  = endswith(var.image_url, ".qcow2")
  image_id  = local.is_import ? one(oci_core_image.imported[*].id) : var.image_ocid

  # An OCID names its region in full, except in the two oldest.
  image_region = try(lookup({ iad = "us-ashburn-1", phx = "us-phoenix-1" }, split(".", var.image_ocid)[3], split(".", var.image_ocid)[3]), "")
}

# .oci files say UEFI and paravirtualized themselves; a bare qcow2 must be told, here and by the capability schema below.
resource "oci_core_image" "imported" {
  count = local.is_import ? 1 : 0

  compartment_id = var.compartment_ocid
  display_name   = "${var.name}-image"
  launch_mode    = local.is_qcow2 ? "PARAVIRTUALIZED" : null
  freeform_tags  = local.tags

  image_source_details {
    source_type       = "objectStorageUri"
    source_uri        = var.image_url
    source_image_type = local.is_qcow2 ? "QCOW2" : null
  }

  lifecycle {
    create_before_destroy = true # a new link makes a new image; nodes of the old one run on

    precondition {
      condition     = var.image_url != ""
      error_message = "Image link is empty. Upload the .oci file that `make image` wrote to Object Storage, make a pre-authenticated request for it, and paste its link; or choose the image source ocid."
    }
  }
}

resource "oci_core_shape_management" "imported" {
  for_each = local.is_import ? toset(distinct(["VM.Standard.A1.Flex", "VM.Standard.A2.Flex", var.shape])) : toset([])

  compartment_id = var.compartment_ocid
  image_id       = oci_core_image.imported[0].id
  shape_name     = each.key
}

data "oci_core_compute_global_image_capability_schemas" "all" {
  count = local.is_import && local.is_qcow2 ? 1 : 0
}

# The importer takes a qcow2 for BIOS, which does not boot on Arm.
resource "oci_core_compute_image_capability_schema" "uefi" {
  count = local.is_import && local.is_qcow2 ? 1 : 0

  compartment_id                                      = var.compartment_ocid
  compute_global_image_capability_schema_version_name = data.oci_core_compute_global_image_capability_schemas.all[0].compute_global_image_capability_schemas[0].current_version_name
  display_name                                        = "${var.name}-uefi"
  image_id                                            = oci_core_image.imported[0].id
  freeform_tags                                       = local.tags

  schema_data = {
    "Compute.Firmware" = jsonencode({
      descriptorType = "enumstring"
      source         = "IMAGE"
      values         = ["UEFI_64"]
      defaultValue   = "UEFI_64"
    })
  }
}

data "oci_core_image" "given" {
  count = local.is_import || var.image_ocid == "" || local.image_region != var.region ? 0 : 1

  image_id = var.image_ocid
}

data "oci_core_image_shapes" "given" {
  count = length(data.oci_core_image.given)

  image_id = var.image_ocid
}

locals {
  image_name = local.is_import ? basename(var.image_url) : one(data.oci_core_image.given[*].display_name)
  # `make image` names its files llamakiln-<model>-<version>-arm64, and `make image-oci` tags its images.
  model_name = local.is_import ? try(regex("llamakiln-(.+)-[0-9.]+-arm64", local.image_name)[0], "") : try(data.oci_core_image.given[0].freeform_tags["model"], "")
}
