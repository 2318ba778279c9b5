# The person's own: example.pkrvars.hcl explains each.

variable "compartment_ocid" {
  type        = string
  description = "Compartment in which the build instance runs."
  validation {
    condition     = can(regex("^ocid1\\.(compartment|tenancy)\\.", var.compartment_ocid))
    error_message = "The compartment_ocid value must begin with ocid1.compartment. or ocid1.tenancy. (the root compartment)."
  }
}

variable "availability_domain" {
  type        = string
  description = "Availability domain of the build instance, with the tenancy's prefix."
  validation {
    condition     = can(regex("^[^:]+:.+-AD-[1-9]$", var.availability_domain))
    error_message = "The availability_domain value must look like Uocm:EU-FRANKFURT-1-AD-1; `oci iam availability-domain list` prints yours."
  }
}

variable "subnet_ocid" {
  type        = string
  description = "Subnet of the build instance: this machine must reach it on port 22, and it must reach the internet."
  validation {
    condition     = can(regex("^ocid1\\.subnet\\.", var.subnet_ocid))
    error_message = "The subnet_ocid value must begin with ocid1.subnet. as OCI prints it."
  }
}

variable "use_private_ip" {
  type        = bool
  default     = false
  description = "Reach the build instance by its private address and give it no public one."
}

variable "nsg_ocids" {
  type        = list(string)
  default     = []
  description = "Network security groups of the build instance."
  validation {
    condition     = length(var.nsg_ocids) <= 5
    error_message = "The nsg_ocids value may hold at most 5 groups: OCI allows no more on one interface."
  }
}

variable "image_compartment_ocid" {
  type        = string
  default     = ""
  description = "Compartment that receives the image; empty means compartment_ocid."
  validation {
    condition     = can(regex("^($|ocid1\\.(compartment|tenancy)\\.)", var.image_compartment_ocid))
    error_message = "The image_compartment_ocid value must be empty or begin with ocid1.compartment. or ocid1.tenancy."
  }
}

variable "shape" {
  type        = string
  default     = "VM.Standard.A2.Flex"
  description = "Shape of the build instance. The image runs on both, whichever baked it."
  validation {
    condition     = contains(["VM.Standard.A2.Flex", "VM.Standard.A1.Flex"], var.shape)
    error_message = "The shape value must be VM.Standard.A2.Flex or VM.Standard.A1.Flex."
  }
}

variable "ocpus" {
  type        = number
  default     = 2
  description = "OCPUs of the build instance; one is 2 cores on A2 and 1 core on A1."
  validation {
    condition     = var.ocpus >= 1 && var.ocpus <= 76
    error_message = "The ocpus value must be from 1 to 76."
  }
}

variable "memory_gb" {
  type        = number
  default     = 16
  description = "Memory of the build instance in GB; its own check of the model needs the model's size and 2 GB more."
  validation {
    condition     = var.memory_gb >= 2 && var.memory_gb <= 472
    error_message = "The memory_gb value must be from 2 to 472."
  }
}

variable "boot_volume_gb" {
  type        = number
  default     = 50
  description = "Boot volume in GB, and so the least that a node made from the image gets."
  validation {
    condition     = var.boot_volume_gb >= 50 && var.boot_volume_gb <= 400
    error_message = "The boot_volume_gb value must be from 50 (OCI's least) to 400 (the most an image may have)."
  }
}

# Filled in by scripts/cloud/bake.py.

variable "oci_config_file" {
  type        = string
  description = "OCI's configuration file with the credentials."
}

variable "oci_profile" {
  type        = string
  description = "Profile in that file."
}

variable "model" {
  type        = string
  description = "Name of the model in packer/models.toml."
}

variable "version" {
  type        = string
  description = "Version of the product, from packer/versions.env."
}

variable "image_name" {
  type        = string
  description = "Display name of the image."
}

variable "stage_tar" {
  type        = string
  description = "Tar of everything that goes onto the image."
}

variable "bake" {
  type        = string
  description = "Key of all that decides what is on the image, as in /etc/llm/image.json: tags the image."
  validation {
    condition     = can(regex("^[0-9a-f]{16}$", var.bake))
    error_message = "The bake value must be 16 hexadecimal digits."
  }
}

variable "inventory_directory" {
  type        = string
  description = "Where the image's package lists are downloaded to, for the SBOM."
}

variable "manifest" {
  type        = string
  description = "Where Packer writes what it made (its manifest post-processor)."
}
