#!/usr/bin/env python3
"""A `packer` for tests: answers the commands that cloud/bake.py uses and makes the image in the loopback tenancy.

As the real one it launches an instance of Ubuntu's image, makes an image of it, and ends it. How it behaves is in
PACKER_DOUBLE: "" (all well), "fails before image", "fails after image", "makes nothing", "old", "no plugin",
"invalid". Knows Packer's command line; needs no template.
"""

import json
import os
import re
import sys
import time
from pathlib import Path

SHAPE = "VM.Standard.A2.Flex"  # the template's default


def variables() -> dict[str, object]:
    """Those of the -var-file, which a test writes with a value of JSON on each line, and each -var."""
    (file,) = (argument.removeprefix("-var-file=") for argument in sys.argv if argument.startswith("-var-file="))
    given = {name: json.loads(value) for name, value in re.findall(r"(?m)^(\w+) = (.+)$", Path(file).read_text())}
    pairs = [argument.removeprefix("-var=") for argument in sys.argv if argument.startswith("-var=")]
    return given | dict(pair.split("=", 1) for pair in pairs)


def create_image(given: dict) -> str:
    """What the plugin does but for its last step, which writes the image's capability schema."""
    import oci  # slow, and only this command needs it

    config = oci.config.from_file(given["oci_config_file"], given["oci_profile"])
    compute = oci.core.ComputeClient(config, service_endpoint=os.environ["LLAMAKILN_OCI_ENDPOINT"])
    models = oci.core.models
    home = given["compartment_ocid"]
    images = compute.list_images(home, operating_system="Canonical Ubuntu", shape=SHAPE).data
    base = next(image for image in images if image.display_name.startswith("Canonical-Ubuntu-22.04-aarch64-"))
    launch = models.LaunchInstanceDetails(
        compartment_id=home,
        availability_domain=given["availability_domain"],
        display_name=f"{given['image_name']}-bake",
        shape=SHAPE,
        source_details=models.InstanceSourceViaImageDetails(image_id=base.id),
        create_vnic_details=models.CreateVnicDetails(subnet_id=given["subnet_ocid"]),
    )
    instance = wait(compute.get_instance, compute.launch_instance(launch).data.id, "RUNNING")
    details = models.CreateImageDetails(
        compartment_id=given.get("image_compartment_ocid") or home,
        display_name=given["image_name"],
        instance_id=instance,
        freeform_tags={"product": "llamakiln", "model": given["model"], "bake": given["bake"]},
    )
    image = wait(compute.get_image, compute.create_image(details).data.id, "AVAILABLE")
    compute.terminate_instance(instance)
    return image


def wait(get: object, ocid: str, state: str) -> str:
    while get(ocid).data.lifecycle_state != state:
        time.sleep(0.01)
    return ocid


def build(behaviour: str) -> int:
    print("oracle-oci.node: output will be in this color.\n")
    print("==> oracle-oci.node: Creating instance...", flush=True)
    if behaviour == "fails before image":
        print("==> oracle-oci.node: Problem creating instance: NotAuthorizedOrNotFound")
        return 1
    if behaviour == "makes nothing":
        return 0
    given = variables()
    image = create_image(given)
    print("==> oracle-oci.node: Updating image schema...")
    if behaviour == "fails after image":
        print("==> oracle-oci.node: Error updating image schema: NotAuthorizedOrNotFound")
        return 1
    Path(given["manifest"]).write_text(json.dumps({"builds": [{"artifact_id": image}]}))
    return 0


def main() -> int:
    behaviour = os.environ.get("PACKER_DOUBLE", "")
    command = sys.argv[1]
    if command == "version":
        print(f"Packer v{'1.6.6' if behaviour == 'old' else '1.10.0'}")
    elif command == "init" and behaviour == "no plugin":
        print("Failed getting the plugin: no release found")
        return 1
    elif command == "validate" and behaviour == "invalid":
        print("Error: Invalid value for variable\n\nThe ocpus value must be from 1 to 76.")
        return 1
    elif command == "build":
        return build(behaviour)
    return 0


if __name__ == "__main__":
    sys.exit(main())
