# What the other files share: tags, names, which availability domains, and the secrets of this deployment.

locals {
  tags = { product = "llamakiln", deployment = var.name }

  port_http           = 80  # of the load balancer, and of NGINX on the nodes
  port_https          = 443 # of the load balancer
  lb_idle_timeout_s   = 300 # request_timeout_s (at most 280) < NGINX 290 s < this < NGINX keep-alive 320 s
  max_metadata_length = 32000

  has_tls         = var.https != "off"
  has_autoscaling = var.autoscaling != "off"
}

# Domains in the order of their names, so that a plan never differs only in order.
data "oci_identity_availability_domains" "all" {
  compartment_id = var.compartment_ocid
}

# Not every domain of a region has every shape.
data "oci_core_shapes" "offered" {
  for_each = toset(data.oci_identity_availability_domains.all.availability_domains[*].name)

  compartment_id      = var.compartment_ocid
  availability_domain = each.key
}

locals {
  availability_domains = sort([
    for name, offer in data.oci_core_shapes.offered : name if contains(offer.shapes[*].name, var.shape)
  ])
}

# 128 random bits, made once and then kept: `uuid()` is new in every plan, and ignore_changes holds the first.
resource "terraform_data" "api_key" {
  input = "llk-${replace(uuid(), "-", "")}"

  lifecycle {
    ignore_changes = [input]
  }
}

locals {
  api_key = !var.has_api_key ? "" : var.api_key != "" ? var.api_key : sensitive(terraform_data.api_key.output)
}
