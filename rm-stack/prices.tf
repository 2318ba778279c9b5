# The one price table: US dollars, list prices without discounts, credits or Oracle's free tier.

locals {
  prices_date   = "2026-11"
  prices_source = "Oracle's price list and its architecture page for this design; check your own on oracle.com/cloud/price-list"

  hours_per_month = 720
  usd_per_hour = {
    "VM.Standard.A1.Flex" = { ocpu = 0.010, memory_gb = 0.0015 }
    "VM.Standard.A2.Flex" = { ocpu = 0.014, memory_gb = 0.0020 }
  }
  usd_per_hour_lb           = 0.029
  usd_per_month_volume_gb   = 0.0255
  usd_per_month_volume_vpus = 0.0017 # for each GB

  node_price = lookup(local.usd_per_hour, var.shape, null)
  usd_per_node_month = local.node_price == null ? null : (
    local.hours_per_month * (var.ocpus * local.node_price.ocpu + var.memory_gb * local.node_price.memory_gb)
    + var.boot_volume_gb * (local.usd_per_month_volume_gb + var.boot_volume_vpus_per_gb * local.usd_per_month_volume_vpus)
  )
  most_nodes = local.has_autoscaling ? max(var.max_pool_size, var.pool_size) : var.pool_size

  estimate = local.usd_per_node_month == null ? "No price of ${var.shape} is known to this stack: see ${local.prices_source}." : format(
    "About $%.0f a month: %d x $%.2f for nodes with boot volumes%s and $%.2f for the load balancer. List prices of %s, without traffic, logs or free tier.",
    local.most_nodes * local.usd_per_node_month + local.hours_per_month * local.usd_per_hour_lb,
    local.most_nodes, local.usd_per_node_month, local.has_autoscaling ? " at the largest size" : "",
    local.hours_per_month * local.usd_per_hour_lb, local.prices_date,
  )
}
