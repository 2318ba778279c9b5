# Where to bake in Oracle Cloud. Copy it, fill in the three first values, then bake:
#
#   cp packer/oci/example.pkrvars.hcl packer/oci/my.pkrvars.hcl     (git ignores it)
#   make image-oci
#
# Credentials are not in here: they are those of the OCI command line, ~/.oci/config (`oci setup config` writes it).
# OCI_CONFIG_FILE names another file, OCI_CLI_PROFILE another profile in it. The profile's region is where the image will be.

# Compartment in which the build instance runs, for about twenty minutes.
# Console: Identity & Security -> Compartments -> the compartment -> OCID.
compartment_ocid = "ocid1.compartment.oc1..replace-me"

# Availability domain of the build instance, with your tenancy's prefix: `oci iam availability-domain list` prints them.
availability_domain = "Uocm:EU-FRANKFURT-1-AD-1"

# Subnet of the build instance. It needs a way out (internet or NAT gateway) for Ubuntu's packages, and this machine must
# reach it on port 22: a public subnet whose rules let your address in, or a private one with use_private_ip = true.
# Console: Networking -> Virtual cloud networks -> the network -> Subnets -> OCID.
subnet_ocid = "ocid1.subnet.oc1.eu-frankfurt-1.replace-me"

# Everything below has the default shown; take away the `# ` to change it.

# true: reach the build instance by its private address (VPN, bastion host, or a machine in the same network) and give it
# no public one.
# use_private_ip = false

# Network security groups for the build instance, if the rule that lets port 22 in is in one of them.
# nsg_ocids = []

# Compartment that receives the image, if not the one above.
# image_compartment_ocid = ""

# Shape of the build instance: VM.Standard.A2.Flex, or VM.Standard.A1.Flex where A2 is not offered or your limit is used
# up. The image runs on both, whichever baked it.
# shape = "VM.Standard.A2.Flex"

# Size of the build instance. More OCPUs make the bake hardly faster.
# ocpus     = 2
# memory_gb = 16

# Boot volume in GB, 50 to 400. Nodes made from the image cannot have a smaller one.
# boot_volume_gb = 50

# Filled in by scripts/cloud/bake.py, not here: oci_config_file, oci_profile, model, version, image_name, bake,
# stage_tar, inventory_directory, manifest.
