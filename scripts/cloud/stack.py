"""The Resource Manager stack of one deployment: find it, make it from a zip, change it, read its state.

A stack is ours by its tags: product=llamakiln, deployment=<name>. Knows stacks and Terraform's state file. Knows
nothing of jobs, nor of what the zip holds.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import oci
import oci.resource_manager

from ..problem import Problem
from .image import PATIENT
from .session import Session, asking, list_all

MODELS = oci.resource_manager.models
TERRAFORM = "1.5.x"
LIVE = ("CREATING", "ACTIVE")
POLL_S = 2.0
Sleep = Callable[[float], None]


def tags(name: str) -> dict[str, str]:
    return {"product": "llamakiln", "deployment": name}


def find_stack(session: Session, compartment_ocid: str, name: str) -> Any | None:
    """The stack of this deployment with its variables, or None.

    Raises Problem when there are two, or when a stack of this name is not ours: it would be overwritten.
    """
    with asking(f"stacks in {compartment_ocid}", "stacks"):
        stacks = list_all(session.stacks.list_stacks, compartment_id=compartment_ocid, **PATIENT)
    live = [stack for stack in stacks if stack.lifecycle_state in LIVE]
    ours = [stack for stack in live if tags(name).items() <= (stack.freeform_tags or {}).items()]
    if len(ours) > 1:
        raise Problem(f"{len(ours)} stacks are tagged deployment={name}: {', '.join(s.id for s in ours)}", "keep one")
    if ours:
        return read_stack(session, ours[0].id)
    if alike := [stack for stack in live if stack.display_name == name]:
        raise Problem(
            f"stack {name} is there ({alike[0].id}), but this did not make it",
            f"choose another NAME, or make it ours: oci resource-manager stack update --stack-id {alike[0].id}"
            f" --freeform-tags '{json.dumps(tags(name))}'",
        )
    return None


def read_stack(session: Session, ocid: str) -> Any:
    with asking(f"stack {ocid}", "stacks"):
        return session.stacks.get_stack(ocid, **PATIENT).data


def make_stack(
    session: Session, compartment_ocid: str, name: str, zip_file: Path, variables: dict[str, str], sleep: Sleep
) -> Any:
    """A new stack, once it can run jobs. A repeated call makes it once (retry token)."""
    details = MODELS.CreateStackDetails(
        compartment_id=compartment_ocid,
        display_name=name,
        description="Llamakiln, made by `make deploy`",
        config_source=MODELS.CreateZipUploadConfigSourceDetails(zip_file_base64_encoded=encode(zip_file)),
        variables=variables,
        terraform_version=TERRAFORM,
        freeform_tags=tags(name),
    )
    with asking(f"stack {name}", "stacks"):
        stack = session.stacks.create_stack(details, **PATIENT).data
    while stack.lifecycle_state == "CREATING":
        sleep(POLL_S)
        stack = read_stack(session, stack.id)
    if stack.lifecycle_state != "ACTIVE":
        raise Problem(f"stack {stack.id} became {stack.lifecycle_state}", "delete it in the console and run again")
    return stack


def update_stack(session: Session, stack: Any, zip_file: Path, variables: dict[str, str]) -> list[str]:
    """Bring the stack to this zip and these variables; returns what was changed, nothing if it was so already."""
    with asking(f"stack {stack.id}", "stacks"):
        answer = session.stacks.get_stack(stack.id, **PATIENT)
        zip_there = session.stacks.get_stack_tf_config(stack.id, **PATIENT).data.content
        there = answer.data.variables or {}
        changed = ["its files"] if zip_there != zip_file.read_bytes() else []
        changed += sorted(name for name in there.keys() | variables.keys() if there.get(name) != variables.get(name))
        if changed:
            details = MODELS.UpdateStackDetails(
                config_source=MODELS.UpdateZipUploadConfigSourceDetails(zip_file_base64_encoded=encode(zip_file)),
                variables=variables,
                terraform_version=TERRAFORM,
            )
            session.stacks.update_stack(stack.id, details, if_match=answer.headers.get("etag"))
    return changed


def delete_stack(session: Session, stack: Any) -> None:
    with asking(f"stack {stack.id}", "stacks"):
        session.stacks.delete_stack(stack.id, **PATIENT)


def encode(zip_file: Path) -> str:
    return base64.b64encode(zip_file.read_bytes()).decode()


def read_state(session: Session, stack: Any) -> dict[str, Any]:
    """Terraform's state; empty for a stack that was never applied."""
    try:
        content = session.stacks.get_stack_tf_state(stack.id, **PATIENT).data.content
    except oci.exceptions.ServiceError as error:
        if error.status == 404:
            return {}
        with asking(f"the state of stack {stack.id}", "stacks"):
            raise
    return json.loads(content) if content.strip() else {}


def outputs(state: dict[str, Any]) -> dict[str, Any]:
    return {name: output["value"] for name, output in state.get("outputs", {}).items()}


def resources(state: dict[str, Any]) -> list[str]:
    """The addresses of what the stack made, as Terraform writes them."""
    return sorted(
        f"{resource['type']}.{resource['name']}"
        + (f"[{json.dumps(instance['index_key'])}]" if "index_key" in instance else "")
        for resource in state.get("resources", [])
        if resource["mode"] == "managed"
        for instance in resource["instances"]
    )
