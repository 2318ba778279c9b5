# Every choice of a deployment, in the order of the form (schema.yaml). LLM settings have the ranges of service/config.py.

# Deployment

variable "region" {
  type        = string
  description = "Region to deploy in, for example eu-frankfurt-1. Resource Manager fills it in."

  validation {
    condition     = can(regex("^[a-z]+(-[a-z]+)+-[0-9]+$", var.region))
    error_message = "The region must be written like eu-frankfurt-1."
  }
}

variable "compartment_ocid" {
  type        = string
  description = "Compartment that everything is created in."

  validation {
    condition     = can(regex("^ocid1\\.(compartment|tenancy)\\.", var.compartment_ocid))
    error_message = "The compartment must be an OCID that begins with ocid1.compartment. (or ocid1.tenancy. for the root)."
  }
}

variable "image_source" {
  type        = string
  default     = "ocid"
  description = "Where the Llamakiln image comes from: \"ocid\" is an image in this tenancy, \"link\" imports a file from Object Storage (10 to 30 minutes)."

  validation {
    condition     = contains(["ocid", "link"], var.image_source)
    error_message = "The image source must be ocid or link."
  }
}

variable "image_ocid" {
  type        = string
  default     = ""
  description = "Image that `make image-oci` baked, or that an .oci file was imported to. It must be in this region and allow the shape."

  validation {
    condition     = var.image_ocid == "" || can(regex("^ocid1\\.image\\.", var.image_ocid))
    error_message = "The image must be an OCID that begins with ocid1.image."
  }
}

variable "image_url" {
  type        = string
  default     = ""
  description = "Object Storage link (pre-authenticated request) to the .oci file, or to the .qcow2 file, that `make image` wrote."

  validation {
    condition     = var.image_url == "" || can(regex("^https://[^ ?#]+\\.(oci|qcow2)$", var.image_url))
    error_message = "The image link must begin with https:// and end in .oci or .qcow2."
  }
}

variable "name" {
  type        = string
  default     = "llamakiln"
  description = "Begins the name of everything that is created. Two deployments in one compartment need two names."

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,23}$", var.name))
    error_message = "The name must be 2 to 24 lower-case letters, digits or hyphens, and begin with a letter."
  }
}

variable "show_advanced" {
  type        = bool
  default     = false
  description = "Show every option in the form. Without it everything has a safe default. Changes nothing by itself."
}

# Nodes

variable "shape" {
  type        = string
  default     = "VM.Standard.A2.Flex"
  description = "Arm shape of the nodes. A2 has i8mm and bf16 and 2 cores per OCPU; A1 has 1 core per OCPU and costs less."

  validation {
    condition     = can(regex("^VM\\.Standard\\.A[0-9]+\\.Flex$", var.shape))
    error_message = "The shape must be a flexible Arm shape: VM.Standard.A1.Flex, VM.Standard.A2.Flex or a later one."
  }
}

variable "ocpus" {
  type        = number
  default     = 2
  description = "OCPUs of each node."

  validation {
    condition     = var.ocpus >= 1 && var.ocpus <= 80 && floor(var.ocpus) == var.ocpus
    error_message = "OCPUs must be a whole number from 1 to 80."
  }
}

variable "memory_gb" {
  type        = number
  default     = 16
  description = "Memory of each node in GB: the model, a quarter of it again for the KV cache, and 1 GB."

  validation {
    condition     = var.memory_gb >= 2 && var.memory_gb <= 946 && floor(var.memory_gb) == var.memory_gb
    error_message = "Memory must be a whole number of GB from 2 to 946."
  }
}

variable "pool_size" {
  type        = number
  default     = 2
  description = "Nodes in the pool. With autoscaling it is only the size to begin with."

  validation {
    condition     = var.pool_size >= 1 && var.pool_size <= 50 && floor(var.pool_size) == var.pool_size
    error_message = "The pool size must be a whole number from 1 to 50."
  }
}

variable "boot_volume_gb" {
  type        = number
  default     = 50
  description = "Boot volume of each node in GB. A larger one reads faster, so a large model is ready sooner after boot."

  validation {
    condition     = var.boot_volume_gb >= 50 && var.boot_volume_gb <= 32768 && floor(var.boot_volume_gb) == var.boot_volume_gb
    error_message = "The boot volume must be a whole number of GB from 50 to 32768."
  }
}

variable "boot_volume_vpus_per_gb" {
  type        = number
  default     = 10
  description = "Boot volume performance: 10 is Balanced, 20 Higher Performance, 30 to 120 Ultra High Performance."

  validation {
    condition     = contains([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120], var.boot_volume_vpus_per_gb)
    error_message = "VPUs per GB must be 10, 20, 30 and so on to 120."
  }
}

variable "fault_domains" {
  type        = string
  default     = "best-effort"
  description = "Spread over the fault domains of each availability domain: \"best-effort\", or \"strict\", where a launch fails when one of them is full."

  validation {
    condition     = contains(["best-effort", "strict"], var.fault_domains)
    error_message = "Fault domains must be best-effort or strict."
  }
}

variable "has_drain" {
  type        = bool
  default     = true
  description = "Hold a node that is to be removed for as long as one request may take, so that running answers can end. Removal is that much slower."
}

# Service: settings of /etc/llm/llm.env on the nodes

variable "has_api_key" {
  type        = bool
  default     = true
  description = "Clients must bring an API key. Without it everybody who reaches the load balancer may ask."
}

variable "api_key" {
  type        = string
  default     = ""
  sensitive   = true
  description = "API key that clients must bring. Empty: one is made and shown in the outputs."

  validation {
    condition     = var.api_key == "" || can(regex("^[!-~]{16,200}$", var.api_key))
    error_message = "The API key must be 16 to 200 visible ASCII characters without spaces."
  }
}

variable "system_prompt" {
  type        = string
  default     = ""
  description = "Put before every chat that brings no system message of its own (LLM_SYSTEM_PROMPT)."

  validation {
    condition     = length(var.system_prompt) <= 4096 && !can(regex("[\\x00-\\x08\\x0b-\\x1f\\x{7f}-\\x{9f}]", var.system_prompt))
    error_message = "The system prompt must be at most 4096 characters, without control characters other than tab and line feed."
  }
}

variable "max_streams" {
  type        = string
  default     = "auto"
  description = "Answers that a node generates at once, 1 to 64; auto: by measurement on the node (LLM_MAX_STREAMS)."

  validation {
    condition     = var.max_streams == "auto" || can(regex("^([1-9]|[1-5][0-9]|6[0-4])$", var.max_streams))
    error_message = "Max streams must be auto or a whole number from 1 to 64."
  }
}

variable "max_tokens" {
  type        = number
  default     = 2048
  description = "Most tokens of an answer (LLM_MAX_TOKENS)."

  validation {
    condition     = var.max_tokens >= 1 && var.max_tokens <= 1048576 && floor(var.max_tokens) == var.max_tokens
    error_message = "Max tokens must be a whole number from 1 to 1048576."
  }
}

variable "max_queue" {
  type        = number
  default     = 32
  description = "Requests that may wait on a node; one more gets 503 with Retry-After (LLM_MAX_QUEUE)."

  validation {
    condition     = var.max_queue >= 0 && var.max_queue <= 512 && floor(var.max_queue) == var.max_queue
    error_message = "Max queue must be a whole number from 0 to 512."
  }
}

variable "max_wait_s" {
  type        = number
  default     = 60
  description = "Longest expected wait for a first token in seconds; beyond it a request gets 503 at once (LLM_MAX_WAIT_S)."

  validation {
    condition     = var.max_wait_s >= 1 && var.max_wait_s <= 280 && floor(var.max_wait_s) == var.max_wait_s
    error_message = "Max wait must be a whole number of seconds from 1 to 280."
  }
}

variable "request_timeout_s" {
  type        = number
  default     = 240
  description = "Seconds that a request may wait and run (LLM_REQUEST_TIMEOUT_S). NGINX waits 290 s, the load balancer 300 s."

  validation {
    condition     = var.request_timeout_s >= 1 && var.request_timeout_s <= 280 && floor(var.request_timeout_s) == var.request_timeout_s
    error_message = "The request timeout must be a whole number of seconds from 1 to 280."
  }
}

# Network

variable "use_existing_network" {
  type        = bool
  default     = false
  description = "Use a VCN and subnets that exist, instead of making them."
}

variable "vcn_cidr" {
  type        = string
  default     = "10.0.0.0/16"
  description = "Address range of the new VCN; the two subnets take the first two /24 of it."

  validation {
    condition     = can(cidrsubnet(var.vcn_cidr, 24 - tonumber(split("/", var.vcn_cidr)[1]), 1)) && can(regex("^(10|172\\.(1[6-9]|2[0-9]|3[01])|192\\.168)\\.", var.vcn_cidr))
    error_message = "The VCN range must be private and from /16 to /23, like 10.0.0.0/16: nodes trust the load balancer's word on client addresses only from private neighbours."
  }
}

variable "vcn_ocid" {
  type        = string
  default     = ""
  description = "Existing VCN."

  validation {
    condition     = var.vcn_ocid == "" || can(regex("^ocid1\\.vcn\\.", var.vcn_ocid))
    error_message = "The VCN must be an OCID that begins with ocid1.vcn."
  }
}

variable "lb_subnet_ocid" {
  type        = string
  default     = ""
  description = "Existing public regional subnet for the load balancer."

  validation {
    condition     = var.lb_subnet_ocid == "" || can(regex("^ocid1\\.subnet\\.", var.lb_subnet_ocid))
    error_message = "The load balancer's subnet must be an OCID that begins with ocid1.subnet."
  }
}

variable "node_subnet_ocid" {
  type        = string
  default     = ""
  description = "Existing private regional subnet for the nodes."

  validation {
    condition     = var.node_subnet_ocid == "" || can(regex("^ocid1\\.subnet\\.", var.node_subnet_ocid))
    error_message = "The nodes' subnet must be an OCID that begins with ocid1.subnet."
  }
}

variable "client_cidrs" {
  type        = list(string)
  default     = ["0.0.0.0/0"]
  description = "Address ranges that may reach the load balancer."

  validation {
    condition     = length(var.client_cidrs) > 0 && length(var.client_cidrs) <= 20 && alltrue([for cidr in var.client_cidrs : can(cidrhost(cidr, 0))])
    error_message = "Client ranges must be 1 to 20 ranges like 203.0.113.0/24."
  }
}

variable "has_public_nodes" {
  type        = bool
  default     = false
  description = "Give each node a public address, as in Oracle's drawing of this architecture. Nothing can connect to it but SSH, when that is on."
}

variable "has_nat_gateway" {
  type        = bool
  default     = false
  description = "Let nodes open connections to the internet. Not needed: everything is baked into the image."
}

variable "has_flow_logs" {
  type        = bool
  default     = false
  description = "Log the connections of both subnets for 30 days (Logging service)."
}

variable "ssh_access" {
  type        = string
  default     = "off"
  description = "SSH to nodes: \"off\"; \"range\", from an address range; or \"bastion\", through OCI Bastion port forwarding."

  validation {
    condition     = contains(["off", "range", "bastion"], var.ssh_access)
    error_message = "SSH access must be off, range or bastion."
  }
}

variable "ssh_public_key" {
  type        = string
  default     = ""
  description = "Public key that may log in on nodes, as the user `ubuntu`."

  validation {
    condition     = var.ssh_public_key == "" || can(regex("^(ssh-(rsa|ed25519)|ecdsa-sha2-nistp[0-9]+) [A-Za-z0-9+/=]+( [^\\n]*)?\\n?$", var.ssh_public_key))
    error_message = "The SSH key must be one OpenSSH public key, like the content of id_ed25519.pub."
  }
}

variable "ssh_cidr" {
  type        = string
  default     = ""
  description = "Address range that may open SSH connections, to nodes or to the bastion. Not the whole internet."

  validation {
    condition     = var.ssh_cidr == "" || (can(cidrhost(var.ssh_cidr, 0)) && !can(regex("/0$", var.ssh_cidr)))
    error_message = "The SSH range must be written like 203.0.113.7/32 and must not be the whole internet."
  }
}

# Load balancer

variable "https" {
  type        = string
  default     = "self-signed"
  description = "\"self-signed\": encrypted, and browsers warn once; \"own\": your certificate in the Certificates service; \"off\": plain HTTP, where API keys and prompts can be read on the way."

  validation {
    condition     = contains(["self-signed", "own", "off"], var.https)
    error_message = "HTTPS must be self-signed, own or off."
  }
}

variable "certificate_ocid" {
  type        = string
  default     = ""
  description = "Certificate for https = own, in the Certificates service of this region. Who deploys must be allowed to read it."

  validation {
    condition     = var.certificate_ocid == "" || can(regex("^ocid1\\.certificate\\.", var.certificate_ocid))
    error_message = "The certificate must be an OCID that begins with ocid1.certificate."
  }
}

variable "host_name" {
  type        = string
  default     = ""
  description = "DNS name that you point at the load balancer. Empty: its address is used in the URLs."

  validation {
    condition     = var.host_name == "" || can(regex("^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\\.)+[a-z]{2,63}$", var.host_name))
    error_message = "The host name must be a full DNS name in lower case, like llm.example.com."
  }
}

variable "lb_min_mbps" {
  type        = number
  default     = 10
  description = "Bandwidth of the load balancer that is always there, and paid for, in Mbit/s."

  validation {
    condition     = var.lb_min_mbps >= 10 && var.lb_min_mbps <= 8000 && floor(var.lb_min_mbps) == var.lb_min_mbps
    error_message = "The load balancer's minimum must be a whole number of Mbit/s from 10 to 8000."
  }
}

variable "lb_max_mbps" {
  type        = number
  default     = 100
  description = "Bandwidth that the load balancer may grow to, in Mbit/s. Text needs little."

  validation {
    condition     = var.lb_max_mbps >= 10 && var.lb_max_mbps <= 8000 && floor(var.lb_max_mbps) == var.lb_max_mbps
    error_message = "The load balancer's maximum must be a whole number of Mbit/s from 10 to 8000."
  }
}

variable "has_sticky_sessions" {
  type        = bool
  default     = false
  description = "Keep a browser on one node by a cookie, so that later turns of a chat find their prefix in its KV cache. Load spreads less evenly."
}

variable "waf_requests_per_minute" {
  type        = number
  default     = 0
  description = "Requests a minute that one address may send before the web application firewall answers 429; 0: no firewall. Nodes limit bursts by themselves."

  validation {
    condition     = var.waf_requests_per_minute >= 0 && var.waf_requests_per_minute <= 100000 && floor(var.waf_requests_per_minute) == var.waf_requests_per_minute
    error_message = "Requests a minute must be a whole number from 0 to 100000."
  }
}

# Autoscaling

variable "autoscaling" {
  type        = string
  default     = "off"
  description = "\"off\"; \"schedule\": by the clock; \"waiting\": by the time to the first byte of an answer, seen at the load balancer; \"query\": by your own metric; \"cpu\": only on images with Oracle Cloud Agent (`make image-oci`), and a poor sign, because one answer alone uses all cores."

  validation {
    condition     = contains(["off", "schedule", "waiting", "query", "cpu"], var.autoscaling)
    error_message = "Autoscaling must be off, schedule, waiting, query or cpu."
  }
}

variable "min_pool_size" {
  type        = number
  default     = 2
  description = "Nodes that autoscaling leaves in the pool; with a schedule, the size in quiet hours."

  validation {
    condition     = var.min_pool_size >= 1 && var.min_pool_size <= 50 && floor(var.min_pool_size) == var.min_pool_size
    error_message = "The minimum pool size must be a whole number from 1 to 50."
  }
}

variable "max_pool_size" {
  type        = number
  default     = 4
  description = "Nodes that autoscaling may reach; with a schedule, the size in busy hours. Check the service limit: 8 A2 OCPUs are 4 nodes."

  validation {
    condition     = var.max_pool_size >= 1 && var.max_pool_size <= 50 && floor(var.max_pool_size) == var.max_pool_size
    error_message = "The maximum pool size must be a whole number from 1 to 50."
  }
}

variable "busy_cron" {
  type        = string
  default     = "0 0 7 ? * MON-FRI *"
  description = "When the pool grows to its maximum: a Quartz cron expression in UTC, seconds first and always 0."

  validation {
    condition     = can(regex("^0( [^ ]+){6}$", var.busy_cron))
    error_message = "The busy time must be a Quartz cron expression with seven fields, the first of them 0, like: 0 0 7 ? * MON-FRI *."
  }
}

variable "quiet_cron" {
  type        = string
  default     = "0 0 19 ? * MON-FRI *"
  description = "When the pool shrinks to its minimum: a Quartz cron expression in UTC, seconds first and always 0."

  validation {
    condition     = can(regex("^0( [^ ]+){6}$", var.quiet_cron))
    error_message = "The quiet time must be a Quartz cron expression with seven fields, the first of them 0, like: 0 0 19 ? * MON-FRI *."
  }
}

variable "scale_out_wait_ms" {
  type        = number
  default     = 8000
  description = "Add a node when the mean time to the first byte stays above this for 3 minutes. A stream's first byte is its first token, or a sign of life after 10 to 15 s; other answers arrive whole, so they count in full."

  validation {
    condition     = var.scale_out_wait_ms >= 100 && var.scale_out_wait_ms <= 280000
    error_message = "The waiting time must be from 100 to 280000 ms."
  }
}

variable "scale_out_cpu_percent" {
  type        = number
  default     = 80
  description = "Add a node when the pool's mean CPU use stays above this for 3 minutes; one is removed below a third of it."

  validation {
    condition     = var.scale_out_cpu_percent >= 30 && var.scale_out_cpu_percent <= 99
    error_message = "The CPU threshold must be from 30 to 99 percent."
  }
}

variable "scale_namespace" {
  type        = string
  default     = ""
  description = "Monitoring namespace of your own metric."

  validation {
    condition     = var.scale_namespace == "" || can(regex("^[a-z][a-z0-9_]{1,254}$", var.scale_namespace))
    error_message = "The namespace must be lower-case letters, digits and underscores."
  }
}

variable "scale_out_query" {
  type        = string
  default     = ""
  description = "Monitoring query that adds a node while it is true, for example requests_waiting[1m].mean() > 8. The image publishes no metric to Monitoring: yours must."
}

variable "scale_in_query" {
  type        = string
  default     = ""
  description = "Monitoring query that removes a node while it is true, for example requests_waiting[5m].max() < 1."
}

# Alarms

variable "alarm_email" {
  type        = string
  default     = ""
  description = "Address that gets the alarms: a node that does not answer, a pool below its size, refused requests. Oracle asks it to confirm. Empty: no alarms."

  validation {
    condition     = var.alarm_email == "" || can(regex("^[^@ ]+@[^@ ]+\\.[^@ ]+$", var.alarm_email))
    error_message = "The alarm address must be one e-mail address."
  }
}
