"""Where images are used, in every compartment that the person can see: by instances, by configurations, by stacks.

Knows what refers to an image. Knows nothing of which image is meant. A compartment that cannot be read ends the search
with a Problem: an image in use there would look unused.
"""

from __future__ import annotations

from typing import Any

from .image import ENDED, PATIENT
from .session import Session, asking, list_all
from .stack import LIVE, read_stack

IMAGE_VARIABLES = ("image_ocid", "image_url")


def find_uses(session: Session) -> dict[str, str]:
    """An image's OCID, or the link to its file -> who uses it."""
    uses: dict[str, str] = {}
    for compartment in [session.tenancy, *list_compartments(session)]:
        for find in (find_in_stacks, find_in_configurations, find_in_instances):  # the last one is named
            uses.update(find(session, compartment))
    return uses


def list_compartments(session: Session) -> list[str]:
    """Every compartment that is in use and that the person may look into, however deep."""
    with asking("the compartments of the tenancy", "compartments"):
        found = list_all(
            session.identity.list_compartments,
            session.tenancy,
            compartment_id_in_subtree=True,
            access_level="ACCESSIBLE",
            **PATIENT,
        )
    return [compartment.id for compartment in found if compartment.lifecycle_state == "ACTIVE"]


def find_in_instances(session: Session, compartment_ocid: str) -> dict[str, str]:
    with asking(f"instances in {compartment_ocid}", "all instances"):
        instances = list_all(session.compute.list_instances, compartment_ocid, **PATIENT)
    live = [instance for instance in instances if instance.lifecycle_state not in ENDED]
    return {image: f"instance {one.display_name} ({one.id})" for one in live if (image := image_of(one))}


def find_in_configurations(session: Session, compartment_ocid: str) -> dict[str, str]:
    with asking(f"instance configurations in {compartment_ocid}", "all pools"):
        found = list_all(session.pools.list_instance_configurations, compartment_ocid, **PATIENT)
        whole = [session.pools.get_instance_configuration(one.id, **PATIENT).data for one in found]
    return {
        image: f"instance configuration {one.display_name} ({one.id})"
        for one in whole
        if (image := image_of(getattr(one.instance_details, "launch_details", None)))
    }


def find_in_stacks(session: Session, compartment_ocid: str) -> dict[str, str]:
    with asking(f"stacks in {compartment_ocid}", "all stacks"):
        found = list_all(session.stacks.list_stacks, compartment_id=compartment_ocid, **PATIENT)
    whole = [read_stack(session, one.id) for one in found if one.lifecycle_state in LIVE]
    return {
        value: f"stack {stack.display_name} ({stack.id})"
        for stack in whole
        for name in IMAGE_VARIABLES
        if (value := (stack.variables or {}).get(name))
    }


def image_of(launched: Any) -> str | None:
    """The image that an instance was made from, or that launch details name."""
    source = getattr(launched, "source_details", None)
    return getattr(launched, "image_id", None) or getattr(source, "image_id", None)
