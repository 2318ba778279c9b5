# What one needs after an apply, most wanted first.

locals {
  base_url = "${local.has_tls ? "https" : "http"}://${var.host_name == "" ? local.lb_address : var.host_name}"
  # Only the self-signed certificate needs curl's -k.
  curl_flags = var.https == "self-signed" ? "-kN" : "-N"
  curl_key   = var.has_api_key ? " -H \"Authorization: Bearer $API_KEY\"" : ""
}

output "url" {
  description = "The chat page. Nodes need a few minutes after the apply until it answers."
  value       = local.base_url
}

output "api_base_url" {
  description = "Base URL for OpenAI clients."
  value       = "${local.base_url}/v1"
}

output "api_key" {
  description = "The API key: enter it on the page, or export it as API_KEY for the curl example."
  value       = local.api_key
  sensitive   = true
}

output "curl_example" {
  description = "Asks once, and streams the answer."
  value       = "curl ${local.curl_flags} ${local.base_url}/generate${local.curl_key} -H \"Content-Type: application/json\" -d '{\"prompt\": \"What is Llamakiln?\", \"max_tokens\": 64, \"stream\": true}'"
}

output "image_name" {
  description = "The image that new nodes boot from."
  value       = local.image_name
}

output "model_name" {
  description = "The model on the image, where its name or tags tell."
  value       = local.model_name == "" ? "see ${local.base_url}/v1/models" : local.model_name
}

output "monthly_estimate" {
  description = "What this deployment costs a month, at most, by list prices."
  value       = local.estimate
}

output "certificate_note" {
  description = "What kind of encryption clients get."
  value = {
    self-signed = "Self-signed certificate: traffic is encrypted, but browsers warn because nobody vouches for it."
    own         = "Your certificate of the Certificates service."
    off         = "No HTTPS: API keys and prompts can be read on the way."
  }[var.https]
}

output "load_balancer_address" {
  description = "Public address of the load balancer: point a DNS name here."
  value       = local.lb_address
}

output "instance_pool_ocid" {
  description = "The pool of nodes."
  value       = oci_core_instance_pool.nodes.id
}

output "availability_domains" {
  description = "Where nodes are spread: every domain of the region that offers the shape."
  value       = local.availability_domains
}
