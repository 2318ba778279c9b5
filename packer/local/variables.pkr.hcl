variable "base_image" {
  type        = string
  description = "Path of the base disk (qcow2, arm64, UEFI, cloud-init)."
}

variable "base_sha256" {
  type        = string
  description = "SHA-256 of the base disk, lower-case hex."
  validation {
    condition     = length(var.base_sha256) == 64
    error_message = "The base_sha256 value must be 64 hexadecimal digits."
  }
}

variable "stage_tar" {
  type        = string
  description = "Tar of everything that goes onto the image; made by scripts/bake/make_image.py."
}

variable "output_directory" {
  type        = string
  description = "Where node.qcow2 is written; must not exist."
}

variable "inventory_directory" {
  type        = string
  description = "Where the image's package lists are downloaded to, for the SBOM."
}

variable "disk_size" {
  type        = string
  default     = "6G"
  description = "Virtual size of the image; the root file system grows to the boot volume at first boot."
}

variable "qemu_binary" {
  type    = string
  default = "qemu-system-aarch64"
}

variable "accelerator" {
  type        = string
  default     = "tcg"
  description = "kvm on an Arm host where a probe shows that it works, tcg otherwise."
  validation {
    condition     = var.accelerator == "tcg" || var.accelerator == "kvm"
    error_message = "The accelerator value must be tcg or kvm."
  }
}

variable "cpu" {
  type        = string
  default     = "neoverse-n1"
  description = "QEMU CPU model; neoverse-n1 has no pointer authentication, which TCG emulates slowly."
}

variable "cpus" {
  type    = number
  default = 2
}

variable "memory_mib" {
  type    = number
  default = 2048
}

variable "firmware" {
  type    = string
  default = "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd"
}

variable "serial_log" {
  type        = string
  default     = "/dev/null"
  description = "File that receives the guest's serial console."
}

variable "seed_directory" {
  type        = string
  description = "Directory with cloud-init's NoCloud user-data and meta-data."
}

variable "ssh_username" {
  type = string
}

variable "ssh_private_key_file" {
  type = string
}
