#!/usr/bin/env python3
"""A `packer` for tests: answers the commands that cloud/bake.py uses and makes the image in the loopback account.

How it behaves is in PACKER_DOUBLE: "" (all well), "fails before image", "fails after image", "makes nothing",
"old", "no plugin", "invalid". Knows Packer's command line; needs no template.
"""

import json
import os
import sys


def variables() -> dict[str, str]:
    pairs = [argument.removeprefix("-var=") for argument in sys.argv if argument.startswith("-var=")]
    return dict(pair.split("=", 1) for pair in pairs)


def create_image(given: dict[str, str]) -> str:
    """What the plugin's last but one step does."""
    import oci  # slow, and only this command needs it

    config = oci.config.from_file(given["oci_config_file"], given["oci_profile"])
    compute = oci.core.ComputeClient(config, service_endpoint=os.environ["LLAMAKILN_OCI_ENDPOINT"])
    tags = {"product": "llamakiln", "model": given["model"], "bake": given["bake"]}
    details = oci.core.models.CreateImageDetails(
        compartment_id=os.environ["PACKER_DOUBLE_COMPARTMENT"], display_name=given["image_name"], freeform_tags=tags
    )
    return compute.create_image(details).data.id


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
    with open(given["manifest"], "w") as file:
        json.dump({"builds": [{"artifact_id": image}]}, file)
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
