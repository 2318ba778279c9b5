# The one public door: TLS, redirect, health checks, and timeouts that fit answers of minutes.

resource "oci_load_balancer_load_balancer" "public" {
  compartment_id             = var.compartment_ocid
  display_name               = "${var.name}-lb"
  shape                      = "flexible"
  subnet_ids                 = [local.lb_subnet_id]
  network_security_group_ids = [oci_core_network_security_group.lb.id]
  is_private                 = false
  is_request_id_enabled      = true
  request_id_header          = "X-Request-Id" # the service takes it over into its log and its answers
  freeform_tags              = local.tags

  shape_details {
    minimum_bandwidth_in_mbps = var.lb_min_mbps
    maximum_bandwidth_in_mbps = var.lb_max_mbps
  }

  lifecycle {
    precondition {
      condition     = var.lb_min_mbps <= var.lb_max_mbps
      error_message = "The load balancer's minimum of ${var.lb_min_mbps} Mbit/s is above its maximum of ${var.lb_max_mbps} Mbit/s."
    }
  }
}

# Requests differ in length by a factor of hundreds: the node with the fewest open ones gets the next.
resource "oci_load_balancer_backend_set" "nodes" {
  load_balancer_id = oci_load_balancer_load_balancer.public.id
  name             = "nodes"
  policy           = "LEAST_CONNECTIONS"

  # 200 once a token was generated, 503 while the node ends; a full queue does not flip it.
  health_checker {
    protocol          = "HTTP"
    port              = local.port_http
    url_path          = "/readyz"
    return_code       = 200
    interval_ms       = 10000
    timeout_in_millis = 3000
    retries           = 3
  }

  dynamic "lb_cookie_session_persistence_configuration" {
    for_each = var.has_sticky_sessions ? ["llamakiln-node"] : []

    content {
      cookie_name      = lb_cookie_session_persistence_configuration.value
      is_http_only     = true
      is_secure        = local.has_tls
      disable_fallback = false # a node that went away is replaced by another, with a colder cache
    }
  }
}

resource "oci_load_balancer_listener" "http" {
  load_balancer_id         = oci_load_balancer_load_balancer.public.id
  name                     = "http"
  port                     = local.port_http
  protocol                 = "HTTP"
  default_backend_set_name = oci_load_balancer_backend_set.nodes.name
  rule_set_names           = oci_load_balancer_rule_set.to_https[*].name

  connection_configuration {
    idle_timeout_in_seconds = local.lb_idle_timeout_s
  }
}

resource "oci_load_balancer_listener" "https" {
  count = local.has_tls ? 1 : 0

  load_balancer_id         = oci_load_balancer_load_balancer.public.id
  name                     = "https"
  port                     = local.port_https
  protocol                 = "HTTP"
  default_backend_set_name = oci_load_balancer_backend_set.nodes.name

  connection_configuration {
    idle_timeout_in_seconds = local.lb_idle_timeout_s
  }

  ssl_configuration {
    certificate_ids         = var.https == "own" ? [var.certificate_ocid] : null
    certificate_name        = one(oci_load_balancer_certificate.self_signed[*].certificate_name)
    protocols               = ["TLSv1.2", "TLSv1.3"]
    cipher_suite_name       = "oci-tls-12-13-wider-ssl-cipher-suite-v1"
    verify_peer_certificate = false # clients show an API key, not a certificate
  }

  lifecycle {
    precondition {
      condition     = var.https != "own" || var.certificate_ocid != ""
      error_message = "HTTPS with your own certificate needs its OCID. Import or issue it in the Certificates service, or choose self-signed."
    }
  }
}

# 308 keeps method and body: a POST stays a POST.
resource "oci_load_balancer_rule_set" "to_https" {
  count = local.has_tls ? 1 : 0

  load_balancer_id = oci_load_balancer_load_balancer.public.id
  name             = "to_https"

  items {
    action        = "REDIRECT"
    response_code = 308

    conditions {
      attribute_name  = "PATH"
      attribute_value = "/"
      operator        = "FORCE_LONGEST_PREFIX_MATCH"
    }

    redirect_uri {
      protocol = "HTTPS"
      port     = local.port_https
      host     = "{host}"
      path     = "{path}"
      query    = "?{query}"
    }
  }

  lifecycle {
    create_before_destroy = true # when HTTPS is switched off, the listener must let go of it first
  }
}

# Self-signed: keeps eavesdroppers out, proves nothing about who answers. Its name says so.
resource "tls_private_key" "self_signed" {
  count = var.https == "self-signed" ? 1 : 0

  algorithm = "RSA"
  rsa_bits  = 2048
}

resource "tls_self_signed_cert" "self_signed" {
  count = var.https == "self-signed" ? 1 : 0

  private_key_pem       = tls_private_key.self_signed[0].private_key_pem
  validity_period_hours = 365 * 24
  early_renewal_hours   = 30 * 24 # an apply in the last month makes a new one
  allowed_uses          = ["digital_signature", "key_encipherment", "server_auth"]
  dns_names             = var.host_name == "" ? [] : [var.host_name]
  ip_addresses          = [local.lb_address]

  subject {
    common_name  = "${var.name} self-signed"
    organization = "Llamakiln self-signed, for encryption only"
  }
}

resource "oci_load_balancer_certificate" "self_signed" {
  count = var.https == "self-signed" ? 1 : 0

  load_balancer_id   = oci_load_balancer_load_balancer.public.id
  certificate_name   = "self-signed-${substr(sha256(tls_self_signed_cert.self_signed[0].cert_pem), 0, 8)}"
  public_certificate = tls_self_signed_cert.self_signed[0].cert_pem
  private_key        = tls_private_key.self_signed[0].private_key_pem

  lifecycle {
    create_before_destroy = true # one in use cannot be removed
  }
}

locals {
  lb_address = one([for detail in oci_load_balancer_load_balancer.public.ip_address_details : detail.ip_address if detail.is_public])
}

# NGINX on each node limits bursts per address; this limits the sum over all nodes.
resource "oci_waf_web_app_firewall_policy" "rate" {
  count = var.waf_requests_per_minute > 0 ? 1 : 0

  compartment_id = var.compartment_ocid
  display_name   = "${var.name}-rate"
  freeform_tags  = local.tags

  actions {
    name = "allow"
    type = "ALLOW"
  }

  actions {
    name = "too_many_requests"
    type = "RETURN_HTTP_RESPONSE"
    code = 429

    body {
      type = "STATIC_TEXT"
      text = jsonencode({ error = { message = "Too many requests from this address: wait a minute.", type = "rate_limit_error" } })
    }

    headers {
      name  = "Content-Type"
      value = "application/json"
    }

    headers {
      name  = "Retry-After"
      value = "60"
    }
  }

  request_access_control {
    default_action_name = "allow"
  }

  request_rate_limiting {
    rules {
      name        = "per_address"
      type        = "REQUEST_RATE_LIMITING"
      action_name = "too_many_requests"

      configurations {
        period_in_seconds          = 60
        requests_limit             = var.waf_requests_per_minute
        action_duration_in_seconds = 0
      }
    }
  }
}

resource "oci_waf_web_app_firewall" "rate" {
  count = var.waf_requests_per_minute > 0 ? 1 : 0

  backend_type               = "LOAD_BALANCER"
  compartment_id             = var.compartment_ocid
  display_name               = "${var.name}-rate"
  load_balancer_id           = oci_load_balancer_load_balancer.public.id
  web_app_firewall_policy_id = oci_waf_web_app_firewall_policy.rate[0].id
  freeform_tags              = local.tags
}
