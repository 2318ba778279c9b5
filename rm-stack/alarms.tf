# Optional alarms by e-mail, on metrics that Oracle publishes by itself: the image sends none.

locals {
  least_nodes = local.has_autoscaling ? var.min_pool_size : var.pool_size

  alarms = {
    unhealthy = {
      severity  = "CRITICAL"
      namespace = "oci_lbaas"
      query     = "UnHealthyBackendServers[1m]${local.lb_metrics}.max() > 0"
      pending   = "PT5M"
      body      = "A node fails the health check /readyz. A node that was just launched takes minutes. Look at it with journalctl -u llm, or detach it from the pool with a replacement."
    }
    below-size = {
      severity  = "WARNING"
      namespace = "oci_instancepools"
      query     = "RunningInstances[1m]{resourceId = \"${oci_core_instance_pool.nodes.id}\"}.max() < ${local.least_nodes}"
      pending   = "PT15M"
      body      = "The pool runs fewer than ${local.least_nodes} nodes. Most often a domain is out of host capacity, or a service limit is reached: see the pool's work requests."
    }
    refused = {
      severity  = "WARNING"
      namespace = "oci_lbaas"
      query     = "HttpResponses5xx[1m]${local.lb_metrics}.sum() > 10"
      pending   = "PT5M"
      body      = "More than 10 requests a minute are refused. Nodes answer 503 with Retry-After when their queue is full: add nodes, or raise OCPUs."
    }
  }
}

resource "oci_ons_notification_topic" "alarms" {
  count = var.alarm_email == "" ? 0 : 1

  compartment_id = var.compartment_ocid
  # Unique in the tenancy, so two compartments may hold a deployment of the same name.
  name          = "${var.name}-alarms-${substr(sha256(var.compartment_ocid), 0, 8)}"
  freeform_tags = local.tags
}

resource "oci_ons_subscription" "email" {
  count = var.alarm_email == "" ? 0 : 1

  compartment_id = var.compartment_ocid
  topic_id       = oci_ons_notification_topic.alarms[0].id
  protocol       = "EMAIL"
  endpoint       = var.alarm_email
  freeform_tags  = local.tags
}

resource "oci_monitoring_alarm" "nodes" {
  for_each = var.alarm_email == "" ? {} : local.alarms

  compartment_id        = var.compartment_ocid
  metric_compartment_id = var.compartment_ocid
  display_name          = "${var.name}-${each.key}"
  is_enabled            = true
  severity              = each.value.severity
  namespace             = each.value.namespace
  query                 = each.value.query
  pending_duration      = each.value.pending
  body                  = each.value.body
  destinations          = [oci_ons_notification_topic.alarms[0].id]
  message_format        = "ONS_OPTIMIZED"
  freeform_tags         = local.tags
}
