# The bake, step by step: the provisioners of packer/local/build.pkr.hcl, where their order lives. Packer cannot share a
# block between directories, so they are repeated here and tests/packer holds the two together.

build {
  sources = ["source.oracle-oci.node"]

  provisioner "shell" {
    script = "scripts/node/wait_for_cloud_init.sh"
  }

  provisioner "file" {
    source      = var.stage_tar
    destination = "/var/tmp/stage.tar"
  }

  provisioner "shell" {
    execute_command = "sudo env {{ .Vars }} bash {{ .Path }}"
    scripts = [
      "scripts/node/unpack_stage.sh",
      "scripts/node/install_packages.sh",
      "scripts/node/install_service.sh",
      "scripts/node/install_model.sh",
      "scripts/node/install_files.sh",
      "scripts/node/configure_firewall.sh",
      "scripts/node/trim_boot.sh",
      "scripts/node/check_service.sh",
      "scripts/node/write_inventory.sh",
    ]
  }

  provisioner "file" {
    direction   = "download"
    source      = "/var/tmp/inventory/"
    destination = "${var.inventory_directory}/"
  }

  # No login opens after this one: the keys are gone. So cleaning and its check are one shell step, the last.
  provisioner "shell" {
    execute_command = "sudo env {{ .Vars }} bash {{ .Path }}"
    scripts = [
      "scripts/node/clean_image.sh",
      "scripts/node/check_hygiene.sh",
    ]
  }

  post-processor "manifest" {
    output     = var.manifest
    strip_path = true
  }
}
