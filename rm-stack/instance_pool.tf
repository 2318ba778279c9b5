# The nodes: one immutable configuration, and a pool that spreads them over every availability domain.

locals {
  user_data = base64encode(templatefile("${path.module}/cloud-init.yaml.tftpl", {
    api_key = local.api_key
    settings = merge(
      {
        LLM_MAX_QUEUE         = var.max_queue
        LLM_MAX_STREAMS       = var.max_streams
        LLM_MAX_TOKENS        = var.max_tokens
        LLM_MAX_WAIT_S        = var.max_wait_s
        LLM_REQUEST_TIMEOUT_S = var.request_timeout_s
      },
      var.system_prompt == "" ? {} : { LLM_SYSTEM_PROMPT = var.system_prompt },
      var.has_api_key ? { LLM_API_KEYS_FILE = "/etc/llm/api-keys" } : {},
    )
  }))
}

# Immutable: a change makes a new one first and hands it to the pool. Nodes that run keep the old one until replaced.
resource "oci_core_instance_configuration" "node" {
  compartment_id = var.compartment_ocid
  display_name   = "${var.name}-node"
  freeform_tags  = local.tags

  instance_details {
    instance_type = "compute"

    launch_details {
      compartment_id                      = var.compartment_ocid
      display_name                        = "${var.name}-node"
      shape                               = var.shape
      is_pv_encryption_in_transit_enabled = true
      freeform_tags                       = local.tags

      metadata = merge(
        { user_data = local.user_data },
        var.ssh_access == "off" ? {} : { ssh_authorized_keys = trimspace(var.ssh_public_key) },
      )

      shape_config {
        ocpus         = var.ocpus
        memory_in_gbs = var.memory_gb
      }

      source_details {
        source_type             = "image"
        image_id                = local.image_id
        boot_volume_size_in_gbs = var.boot_volume_gb
        boot_volume_vpus_per_gb = var.boot_volume_vpus_per_gb
      }

      create_vnic_details {
        assign_public_ip = var.has_public_nodes
        nsg_ids          = [oci_core_network_security_group.nodes.id]
      }

      # Only IMDSv2: its requests need a header that a forged request cannot bring.
      instance_options {
        are_legacy_imds_endpoints_disabled = true
      }

      availability_config {
        recovery_action = "RESTORE_INSTANCE"
      }

      agent_config {
        is_management_disabled = true
        is_monitoring_disabled = false
      }
    }
  }

  lifecycle {
    create_before_destroy = true

    precondition {
      condition     = local.is_import || var.image_ocid != ""
      error_message = "No image is chosen. Bake one with `make image-oci` and choose it here, or set the image source to link and paste a link to an .oci file."
    }
    precondition {
      condition     = local.is_import || var.image_ocid == "" || local.image_region == var.region
      error_message = "The image is in region ${local.image_region} and this deployment in ${var.region}. Images do not cross regions: deploy there, or import the .oci file here with the image source link."
    }
    precondition {
      condition     = alltrue([for image in data.oci_core_image.given : image.state == "AVAILABLE"])
      error_message = "The image is ${join("", data.oci_core_image.given[*].state)}, not AVAILABLE. Wait until its import ends, or choose another."
    }
    precondition {
      condition     = alltrue([for image in data.oci_core_image.given : try(image.launch_options[0].firmware, "") == "UEFI_64"])
      error_message = "The image is not set to boot with UEFI, and Arm shapes cannot boot it. Import the .oci file instead of the .qcow2, or set its capability Compute.Firmware to UEFI_64."
    }
    precondition {
      condition     = alltrue([for shapes in data.oci_core_image_shapes.given : contains(shapes.image_shape_compatibilities[*].shape, var.shape)])
      error_message = "The image does not allow ${var.shape}. Add it: Compute > Custom images > the image > Edit details > Compatible shapes."
    }
    precondition {
      condition     = length(local.availability_domains) > 0
      error_message = "${var.shape} is not offered in ${var.region}. Choose another shape, or deploy in a region that has it."
    }
    precondition {
      condition     = length(local.user_data) + length(var.ssh_public_key) <= local.max_metadata_length - 200
      error_message = "The settings do not fit into the ${local.max_metadata_length} bytes of instance metadata. Shorten the system prompt."
    }
  }
}

data "oci_identity_fault_domains" "all" {
  for_each = var.fault_domains == "strict" ? toset(local.availability_domains) : toset([])

  compartment_id      = var.compartment_ocid
  availability_domain = each.key
}

# Autoscaling owns the size: an apply keeps what it finds. `ignore_changes = [size]` cannot be switched by a variable, and
# two pool resources, one with it and one without, would replace every node when autoscaling is switched.
data "oci_core_instance_pools" "running" {
  count = local.has_autoscaling ? 1 : 0

  compartment_id = var.compartment_ocid
  display_name   = "${var.name}-nodes"
}

locals {
  found_sizes = flatten([
    for found in data.oci_core_instance_pools.running : [for pool in found.instance_pools : pool.size if !contains(["TERMINATING", "TERMINATED"], pool.state)]
  ])
  pool_size = !local.has_autoscaling ? var.pool_size : min(var.max_pool_size, max(var.min_pool_size, try(local.found_sizes[0], var.pool_size)))
}

resource "oci_core_instance_pool" "nodes" {
  compartment_id                  = var.compartment_ocid
  instance_configuration_id       = oci_core_instance_configuration.node.id
  size                            = local.pool_size
  display_name                    = "${var.name}-nodes"
  instance_display_name_formatter = "${var.name}-$${launchCount}"
  instance_hostname_formatter     = "${var.name}-$${launchCount}"
  freeform_tags                   = local.tags

  # Without fault domains the pool spreads as well as capacity allows; naming them makes a full one an error.
  dynamic "placement_configurations" {
    for_each = local.availability_domains

    content {
      availability_domain = placement_configurations.value
      fault_domains       = var.fault_domains == "strict" ? sort(data.oci_identity_fault_domains.all[placement_configurations.value].fault_domains[*].name) : null

      primary_vnic_subnets {
        subnet_id = local.node_subnet_id
      }
    }
  }

  load_balancers {
    load_balancer_id = oci_load_balancer_load_balancer.public.id
    backend_set_name = oci_load_balancer_backend_set.nodes.name
    port             = local.port_http
    vnic_selection   = "PrimaryVnic"
  }

  # A node that is to go leaves the load balancer and is held until its last request must have ended.
  dynamic "lifecycle_management" {
    for_each = var.has_drain ? [var.request_timeout_s] : []

    content {
      lifecycle_actions {
        pre_termination {
          is_enabled = true
          timeout    = lifecycle_management.value

          on_timeout {
            preserve_boot_volume_mode  = "DELETE_ALWAYS"
            preserve_block_volume_mode = "DELETE_ALWAYS"
          }
        }
      }
    }
  }

  # A node may launch only when its image allows the shape and boots with UEFI, and its rules stand.
  depends_on = [
    oci_core_compute_image_capability_schema.uefi,
    oci_core_network_security_group_security_rule.nodes_from_lb,
    oci_core_shape_management.imported,
  ]
}
