# Optional growing and shrinking of the pool, by the clock or by a metric.

locals {
  lb_metrics = "{resourceId = \"${oci_load_balancer_load_balancer.public.id}\"}"

  # What adds a node and what removes one. Removing waits longer: a node that is gone takes its KV cache along.
  scale_rules = {
    off      = {}
    schedule = {}
    waiting = {
      out = { change = 1, source = "CUSTOM_QUERY", namespace = "oci_lbaas", pending = "PT3M", query = "ResponseTimeHttpHeader[1m]${local.lb_metrics}.mean() > ${var.scale_out_wait_ms}" }
      in  = { change = -1, source = "CUSTOM_QUERY", namespace = "oci_lbaas", pending = "PT15M", query = "HttpRequests[5m]${local.lb_metrics}.sum() < 1" }
    }
    query = {
      out = { change = 1, source = "CUSTOM_QUERY", namespace = var.scale_namespace, pending = "PT3M", query = var.scale_out_query }
      in  = { change = -1, source = "CUSTOM_QUERY", namespace = var.scale_namespace, pending = "PT15M", query = var.scale_in_query }
    }
    cpu = {
      out = { change = 1, source = "COMPUTE_AGENT", operator = "GT", value = var.scale_out_cpu_percent, pending = "PT3M" }
      in  = { change = -1, source = "COMPUTE_AGENT", operator = "LT", value = floor(var.scale_out_cpu_percent / 3), pending = "PT15M" }
    }
  }[var.autoscaling]

  schedules = var.autoscaling == "schedule" ? {
    busy  = { size = var.max_pool_size, cron = var.busy_cron }
    quiet = { size = var.min_pool_size, cron = var.quiet_cron }
  } : {}
}

resource "oci_autoscaling_auto_scaling_configuration" "nodes" {
  count = local.has_autoscaling ? 1 : 0

  compartment_id       = var.compartment_ocid
  display_name         = "${var.name}-autoscaling"
  is_enabled           = true
  cool_down_in_seconds = 600 # a new node needs minutes until it answers
  freeform_tags        = local.tags

  auto_scaling_resources {
    id   = oci_core_instance_pool.nodes.id
    type = "instancePool"
  }

  dynamic "policies" {
    for_each = local.schedules

    content {
      display_name = policies.key
      policy_type  = "scheduled"

      capacity {
        initial = policies.value.size
        min     = policies.value.size
        max     = policies.value.size
      }

      execution_schedule {
        type       = "cron"
        expression = policies.value.cron
        timezone   = "UTC"
      }
    }
  }

  dynamic "policies" {
    for_each = length(local.scale_rules) > 0 ? [local.scale_rules] : []

    content {
      display_name = "threshold"
      policy_type  = "threshold"

      capacity {
        initial = max(var.min_pool_size, min(var.max_pool_size, var.pool_size))
        min     = var.min_pool_size
        max     = var.max_pool_size
      }

      dynamic "rules" {
        for_each = policies.value

        content {
          display_name = rules.key

          action {
            type  = "CHANGE_COUNT_BY"
            value = rules.value.change
          }

          metric {
            metric_source         = rules.value.source
            pending_duration      = rules.value.pending
            metric_type           = rules.value.source == "COMPUTE_AGENT" ? "CPU_UTILIZATION" : null
            metric_compartment_id = rules.value.source == "CUSTOM_QUERY" ? var.compartment_ocid : null
            namespace             = try(rules.value.namespace, null)
            query                 = try(rules.value.query, null)

            dynamic "threshold" {
              for_each = rules.value.source == "COMPUTE_AGENT" ? [rules.value] : []

              content {
                operator = threshold.value.operator
                value    = threshold.value.value
              }
            }
          }
        }
      }
    }
  }

  lifecycle {
    precondition {
      condition     = var.min_pool_size <= var.max_pool_size
      error_message = "The minimum pool size of ${var.min_pool_size} is above the maximum of ${var.max_pool_size}."
    }
    precondition {
      condition     = var.autoscaling != "query" || (var.scale_namespace != "" && var.scale_out_query != "" && var.scale_in_query != "")
      error_message = "Autoscaling by your own metric needs its namespace, the query that adds a node and the query that removes one."
    }
  }
}
