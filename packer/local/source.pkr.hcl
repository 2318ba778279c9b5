# The QEMU builder: bakes on this machine, with no cloud account. Works with Packer 1.6.6 (Debian 12) and current Packer,
# so no required_plugins here and UEFI goes through qemuargs. scripts/bake/make_image.py fills in the variables.

source "qemu" "node" {
  disk_image       = true
  iso_url          = var.base_image
  iso_checksum     = "sha256:${var.base_sha256}"
  format           = "qcow2"
  disk_size        = var.disk_size
  disk_interface   = "virtio"
  disk_discard     = "unmap"
  skip_compaction  = true
  vm_name          = "node.qcow2"
  output_directory = var.output_directory

  qemu_binary  = var.qemu_binary
  machine_type = "virt"
  accelerator  = var.accelerator
  net_device   = "virtio-net-pci"
  headless     = true
  qemuargs = [
    ["-cpu", var.cpu],
    ["-smp", "${var.cpus}"],
    ["-m", "${var.memory_mib}M"],
    ["-bios", var.firmware],
    ["-serial", "file:${var.serial_log}"],
    ["-display", "none"],
    ["-device", "virtio-rng-pci"],
    ["-boot", "strict=off"],
  ]

  # cloud-init finds its NoCloud seed by this label: one login, by key, for the length of the bake.
  cd_files = ["${var.seed_directory}/user-data", "${var.seed_directory}/meta-data"]
  cd_label = "cidata"

  communicator         = "ssh"
  ssh_username         = var.ssh_username
  ssh_private_key_file = var.ssh_private_key_file
  ssh_timeout          = "20m"
  boot_wait            = "1s"
  shutdown_command     = "sudo systemctl poweroff"
  shutdown_timeout     = "5m"
}
