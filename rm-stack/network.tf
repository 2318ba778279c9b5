# The network: load balancer in a public subnet, nodes in a private one, and rules from group to group.

locals {
  has_new_network = !var.use_existing_network
  vcn_id          = local.has_new_network ? one(oci_core_vcn.new[*].id) : var.vcn_ocid
  lb_subnet_id    = local.has_new_network ? one(oci_core_subnet.lb[*].id) : var.lb_subnet_ocid
  node_subnet_id  = local.has_new_network ? one(oci_core_subnet.nodes[*].id) : var.node_subnet_ocid

  subnet_bits = 24 - tonumber(split("/", var.vcn_cidr)[1])
  # A route table cannot hold both an internet gateway and a service gateway for all services.
  has_service_gateway = local.has_new_network && !var.has_public_nodes
  has_nat_gateway     = local.has_new_network && var.has_nat_gateway && !var.has_public_nodes
}

resource "oci_core_vcn" "new" {
  count = local.has_new_network ? 1 : 0

  compartment_id = var.compartment_ocid
  cidr_blocks    = [var.vcn_cidr]
  display_name   = "${var.name}-vcn"
  dns_label      = "llm"
  freeform_tags  = local.tags
}

# As OCI makes it, it lets the whole internet in on port 22. Taken over and emptied: the groups below say what may pass.
resource "oci_core_default_security_list" "closed" {
  count = local.has_new_network ? 1 : 0

  manage_default_resource_id = oci_core_vcn.new[0].default_security_list_id
  display_name               = "${var.name}-closed"
  freeform_tags              = local.tags
}

resource "oci_core_internet_gateway" "new" {
  count = local.has_new_network ? 1 : 0

  compartment_id = var.compartment_ocid
  vcn_id         = oci_core_vcn.new[0].id
  display_name   = "${var.name}-internet"
  freeform_tags  = local.tags
}

data "oci_core_services" "all" {
  filter {
    name   = "name"
    values = ["^All .* Services In Oracle Services Network$"]
    regex  = true
  }
}

# To Oracle's own services (metrics, Bastion) without the internet.
resource "oci_core_service_gateway" "new" {
  count = local.has_service_gateway ? 1 : 0

  compartment_id = var.compartment_ocid
  vcn_id         = oci_core_vcn.new[0].id
  display_name   = "${var.name}-services"
  freeform_tags  = local.tags

  services {
    service_id = data.oci_core_services.all.services[0].id
  }
}

resource "oci_core_nat_gateway" "new" {
  count = local.has_nat_gateway ? 1 : 0

  compartment_id = var.compartment_ocid
  vcn_id         = oci_core_vcn.new[0].id
  display_name   = "${var.name}-nat"
  freeform_tags  = local.tags

  lifecycle {
    create_before_destroy = true # when it is switched off, the route table must let go of it first
  }
}

resource "oci_core_route_table" "public" {
  count = local.has_new_network ? 1 : 0

  compartment_id = var.compartment_ocid
  vcn_id         = oci_core_vcn.new[0].id
  display_name   = "${var.name}-public"
  freeform_tags  = local.tags

  route_rules {
    destination       = "0.0.0.0/0"
    destination_type  = "CIDR_BLOCK"
    network_entity_id = oci_core_internet_gateway.new[0].id
  }
}

resource "oci_core_route_table" "private" {
  count = local.has_service_gateway ? 1 : 0

  compartment_id = var.compartment_ocid
  vcn_id         = oci_core_vcn.new[0].id
  display_name   = "${var.name}-private"
  freeform_tags  = local.tags

  route_rules {
    destination       = data.oci_core_services.all.services[0].cidr_block
    destination_type  = "SERVICE_CIDR_BLOCK"
    network_entity_id = oci_core_service_gateway.new[0].id
  }

  dynamic "route_rules" {
    for_each = oci_core_nat_gateway.new

    content {
      destination       = "0.0.0.0/0"
      destination_type  = "CIDR_BLOCK"
      network_entity_id = route_rules.value.id
    }
  }
}

resource "oci_core_subnet" "lb" {
  count = local.has_new_network ? 1 : 0

  compartment_id    = var.compartment_ocid
  vcn_id            = oci_core_vcn.new[0].id
  cidr_block        = cidrsubnet(var.vcn_cidr, local.subnet_bits, 0)
  display_name      = "${var.name}-lb"
  dns_label         = "lb"
  route_table_id    = oci_core_route_table.public[0].id
  security_list_ids = [oci_core_default_security_list.closed[0].id]
  freeform_tags     = local.tags
}

resource "oci_core_subnet" "nodes" {
  count = local.has_new_network ? 1 : 0

  compartment_id             = var.compartment_ocid
  vcn_id                     = oci_core_vcn.new[0].id
  cidr_block                 = cidrsubnet(var.vcn_cidr, local.subnet_bits, 1)
  display_name               = "${var.name}-nodes"
  dns_label                  = "nodes"
  prohibit_public_ip_on_vnic = !var.has_public_nodes
  route_table_id             = var.has_public_nodes ? oci_core_route_table.public[0].id : oci_core_route_table.private[0].id
  security_list_ids          = [oci_core_default_security_list.closed[0].id]
  freeform_tags              = local.tags
}

resource "oci_core_network_security_group" "lb" {
  compartment_id = var.compartment_ocid
  vcn_id         = local.vcn_id
  display_name   = "${var.name}-lb"
  freeform_tags  = local.tags

  lifecycle {
    precondition {
      condition     = local.has_new_network || (var.vcn_ocid != "" && var.lb_subnet_ocid != "" && var.node_subnet_ocid != "")
      error_message = "An existing network needs all three: the VCN, a public subnet for the load balancer and a private subnet for the nodes. Choose them, or let the stack make a network."
    }
  }
}

resource "oci_core_network_security_group" "nodes" {
  compartment_id = var.compartment_ocid
  vcn_id         = local.vcn_id
  display_name   = "${var.name}-nodes"
  freeform_tags  = local.tags
}

# Clients to the load balancer, on its own ports only.
resource "oci_core_network_security_group_security_rule" "clients" {
  for_each = {
    for pair in setproduct(var.client_cidrs, local.has_tls ? [local.port_http, local.port_https] : [local.port_http]) :
    "${pair[0]}:${pair[1]}" => { cidr = pair[0], port = pair[1] }
  }

  network_security_group_id = oci_core_network_security_group.lb.id
  direction                 = "INGRESS"
  protocol                  = "6"
  source                    = each.value.cidr
  source_type               = "CIDR_BLOCK"
  description               = "Clients"

  tcp_options {
    destination_port_range {
      min = each.value.port
      max = each.value.port
    }
  }
}

# Without this message, answers hang for clients behind a link with smaller packets (path MTU discovery).
resource "oci_core_network_security_group_security_rule" "fragmentation_needed" {
  for_each = toset(var.client_cidrs)

  network_security_group_id = oci_core_network_security_group.lb.id
  direction                 = "INGRESS"
  protocol                  = "1"
  source                    = each.key
  source_type               = "CIDR_BLOCK"
  description               = "Path MTU discovery"

  icmp_options {
    type = 3
    code = 4
  }
}

resource "oci_core_network_security_group_security_rule" "lb_to_nodes" {
  network_security_group_id = oci_core_network_security_group.lb.id
  direction                 = "EGRESS"
  protocol                  = "6"
  destination               = oci_core_network_security_group.nodes.id
  destination_type          = "NETWORK_SECURITY_GROUP"
  description               = "Load balancer to NGINX"

  tcp_options {
    destination_port_range {
      min = local.port_http
      max = local.port_http
    }
  }
}

resource "oci_core_network_security_group_security_rule" "nodes_from_lb" {
  network_security_group_id = oci_core_network_security_group.nodes.id
  direction                 = "INGRESS"
  protocol                  = "6"
  source                    = oci_core_network_security_group.lb.id
  source_type               = "NETWORK_SECURITY_GROUP"
  description               = "Load balancer to NGINX"

  tcp_options {
    destination_port_range {
      min = local.port_http
      max = local.port_http
    }
  }
}

resource "oci_core_network_security_group_security_rule" "nodes_to_services" {
  network_security_group_id = oci_core_network_security_group.nodes.id
  direction                 = "EGRESS"
  protocol                  = "6"
  destination               = data.oci_core_services.all.services[0].cidr_block
  destination_type          = "SERVICE_CIDR_BLOCK"
  description               = "Nodes to Oracle's services"

  tcp_options {
    destination_port_range {
      min = local.port_https
      max = local.port_https
    }
  }
}

resource "oci_core_network_security_group_security_rule" "nodes_to_internet" {
  count = var.has_nat_gateway ? 1 : 0

  network_security_group_id = oci_core_network_security_group.nodes.id
  direction                 = "EGRESS"
  protocol                  = "6"
  destination               = "0.0.0.0/0"
  destination_type          = "CIDR_BLOCK"
  description               = "Nodes to the internet"
}

# SSH, only when asked for: from the stated range, or from the bastion's own address.
resource "oci_core_network_security_group_security_rule" "ssh" {
  count = var.ssh_access == "off" ? 0 : 1

  network_security_group_id = oci_core_network_security_group.nodes.id
  direction                 = "INGRESS"
  protocol                  = "6"
  source                    = var.ssh_access == "bastion" ? "${oci_bastion_bastion.ssh[0].private_endpoint_ip_address}/32" : var.ssh_cidr
  source_type               = "CIDR_BLOCK"
  description               = "SSH"

  tcp_options {
    destination_port_range {
      min = 22
      max = 22
    }
  }

  lifecycle {
    precondition {
      condition     = var.ssh_cidr != "" && var.ssh_public_key != ""
      error_message = "SSH access needs the address range that may connect and the public key that may log in. Fill in both, or set SSH access to off."
    }
  }
}

resource "oci_bastion_bastion" "ssh" {
  count = var.ssh_access == "bastion" ? 1 : 0

  bastion_type                 = "STANDARD"
  compartment_id               = var.compartment_ocid
  target_subnet_id             = local.node_subnet_id
  name                         = replace("${var.name}Bastion", "-", "")
  client_cidr_block_allow_list = var.ssh_cidr == "" ? [] : [var.ssh_cidr]
  max_session_ttl_in_seconds   = 3 * 3600
  freeform_tags                = local.tags
}

resource "oci_logging_log_group" "flow" {
  count = var.has_flow_logs ? 1 : 0

  compartment_id = var.compartment_ocid
  display_name   = "${var.name}-flow"
  freeform_tags  = local.tags
}

resource "oci_logging_log" "flow" {
  for_each = var.has_flow_logs ? { lb = local.lb_subnet_id, nodes = local.node_subnet_id } : {}

  display_name       = "${var.name}-flow-${each.key}"
  log_group_id       = oci_logging_log_group.flow[0].id
  log_type           = "SERVICE"
  retention_duration = 30
  freeform_tags      = local.tags

  configuration {
    compartment_id = var.compartment_ocid

    source {
      category    = "all"
      resource    = each.value
      service     = "flowlogs"
      source_type = "OCISERVICE"
    }
  }
}
