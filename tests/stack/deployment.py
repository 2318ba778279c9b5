"""One deployment for a test: a real Terraform, a loopback tenancy, and plans as plain data."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.cloud.offer import Offer, offered
from tests.cloud.services.compute import IMAGE
from tests.cloud.services.network import KINDS
from tests.cloud.tenancy import COMPARTMENT, REGION, Tenancy

REPOSITORY = Path(__file__).resolve().parents[2]
STACK = REPOSITORY / "rm-stack"

KEY = "test-key-0123456789abcdef"
PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0VJ7vQ4b9a6E1Yw6cH1bq0kXo8yq3F0nq1u2v3w4x5 ops@example.com"
OCI_FILE = "https://objectstorage.eu-frankfurt-1.oraclecloud.com/p/x/n/ns/b/images/o/llamakiln-demo-0.1.0-arm64.oci"


class Refused(AssertionError):
    """Terraform ended with an error; `text` is what it said of it."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class Plan:
    """A plan's JSON, looked at by type of resource."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content
        self.changes = [one for one in content.get("resource_changes", []) if one["mode"] == "managed"]

    def all(self, kind: str) -> list[dict[str, Any]]:
        """The planned values of each resource of a type; what is not known yet is missing."""
        return [one["change"]["after"] for one in self.changes if one["type"] == kind and one["change"]["after"]]

    def one(self, kind: str) -> dict[str, Any]:
        (found,) = self.all(kind)
        return found

    @property
    def actions(self) -> dict[str, list[str]]:
        """Address -> what is done there, without what stays."""
        return {
            one["address"]: one["change"]["actions"] for one in self.changes if one["change"]["actions"] != ["no-op"]
        }

    @property
    def outputs(self) -> dict[str, Any]:
        return {name: one.get("after") for name, one in self.content["output_changes"].items()}


class Deployment:
    """One copy of the stack with its own state, tenancy and provider."""

    def __init__(self, folder: Path, tenancy: Tenancy, offer: Offer) -> None:
        self.folder, self.tenancy, self.offer = folder, tenancy, offer

    def run(self, *arguments: str, ok: tuple[int, ...] = (0,)) -> str:
        ended = subprocess.run(
            [self.offer.terraform, *arguments],
            cwd=self.folder,
            env=self.offer.environment(os.environ),
            capture_output=True,
            text=True,
            timeout=self.offer.timeout_s,
            check=False,
        )
        if ended.returncode not in ok:
            raise Refused(plain(ended.stderr))
        return ended.stdout

    def write(self, variables: dict[str, Any]) -> None:
        chosen = {"region": REGION, "compartment_ocid": COMPARTMENT, "image_ocid": IMAGE, **variables}
        (self.folder / "terraform.tfvars.json").write_text(json.dumps(chosen))

    def plan(self, *options: str, **variables: Any) -> Plan:
        self.write(variables)
        self.run("plan", "-input=false", "-no-color", "-out=plan", *options)
        return Plan(json.loads(self.run("show", "-json", "plan")))

    def apply(self, **variables: Any) -> None:
        self.write(variables)
        self.run("apply", "-input=false", "-no-color", "-auto-approve")

    def destroy(self) -> None:
        self.run("destroy", "-input=false", "-no-color", "-auto-approve")

    def outputs(self) -> dict[str, Any]:
        return {name: one["value"] for name, one in json.loads(self.run("output", "-json")).items()}


def plain(text: str) -> str:
    """Without colours, frames and line breaks, so that a sentence can be looked for."""
    return re.sub(r"\s+", " ", re.sub(r"\x1b\[[0-9;]*m|[│╷╵]", "", text))


def user_data(plan: Plan) -> dict[str, Any]:
    """The cloud-config that nodes get, parsed."""
    details = plan.one("oci_core_instance_configuration")["instance_details"][0]["launch_details"][0]
    text = base64.b64decode(details["metadata"]["user_data"]).decode()
    assert text.startswith("#cloud-config\n")
    return yaml.safe_load(text)


def existing_network(tenancy: Tenancy) -> dict[str, Any]:
    """A VCN with two subnets that somebody else made, and the variables that name them."""
    vcns, subnets = (kind for kind in KINDS if kind.name in ("vcns", "subnets"))
    with tenancy.lock:
        vcn = tenancy.put(vcns, {"compartmentId": COMPARTMENT, "cidrBlocks": ["10.0.0.0/16"], "dnsLabel": "old"})
        made = [
            tenancy.put(subnets, {"compartmentId": COMPARTMENT, "vcnId": vcn["id"], "cidrBlock": f"10.0.{number}.0/24"})
            for number in (0, 1)
        ]
    names = {"vcn_ocid": vcn["id"], "lb_subnet_ocid": made[0]["id"], "node_subnet_ocid": made[1]["id"]}
    return {"use_existing_network": True, **names}


@contextmanager
def deploying(folder: Path, terraform: Path) -> Iterator[Deployment]:
    folder.mkdir(parents=True, exist_ok=True)
    for file in STACK.iterdir():
        if file.suffix in (".tf", ".tftpl"):
            shutil.copy(file, folder)
    with Tenancy() as tenancy, offered(tenancy, terraform, folder.with_name(f"{folder.name}-provider")) as offer:
        yield Deployment(folder, tenancy, offer)
