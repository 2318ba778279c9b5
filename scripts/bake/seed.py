"""What cloud-init on a machine is told: a NoCloud seed, or the files that Oracle's metadata service answers from.

Knows both forms. How they reach the machine is in qemu.py and imds.py.
"""

from __future__ import annotations

import base64
import json
import uuid
from pathlib import Path

from .qemu import MAC

# Carried out by cloud-init in both cases, so that a test can see that it is.
USER_DATA = "#cloud-config\nwrite_files:\n- path: /run/user-data-was-read\n  content: 'yes'\n"


def write_seed(folder: Path, metadata: str, name: str, cpu: str, key: str) -> None:
    """Make the folder with a machine's metadata; `key` is the public one that may log in."""
    folder.mkdir()
    instance = uuid.uuid4().hex
    if metadata == "oracle":
        user_data = base64.b64encode(USER_DATA.encode()).decode()
        told = {
            "instance.json": {
                "id": f"ocid1.instance.oc1.eu-frankfurt-1.{instance}",
                "displayName": name,
                "hostname": name,
                "shape": f"VM.Standard.{cpu.upper()}.Flex",
                "region": "eu-frankfurt-1",
                "canonicalRegionName": "eu-frankfurt-1",
                "ociAdName": "eu-frankfurt-1-ad-1",
                "availabilityDomain": "Uocm:EU-FRANKFURT-1-AD-1",
                "faultDomain": "FAULT-DOMAIN-1",
                "metadata": {"ssh_authorized_keys": key, "user_data": user_data},
            },
            "vnics.json": [
                {
                    "vnicId": f"ocid1.vnic.oc1.eu-frankfurt-1.{instance}",
                    "macAddr": MAC,
                    "privateIp": "169.254.0.15",
                    "virtualRouterIp": "169.254.0.2",
                    "subnetCidrBlock": "169.254.0.0/16",
                    "vlanTag": 0,
                }
            ],
        }
    else:
        meta_data = {"instance-id": f"iid-{instance}", "local-hostname": name, "public-keys": [key]}
        told = {"meta-data": meta_data}  # cloud-init reads YAML here, and JSON is YAML
        (folder / "user-data").write_text(USER_DATA)
    for file, content in told.items():
        (folder / file).write_text(json.dumps(content))
