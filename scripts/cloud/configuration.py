"""The instance configuration that a rollout needs: the pool's own with another image, found or made, and tidied away.

A copy is tagged with its pool: what is tagged so and is not the pool's own now may go. Knows nothing of moving nodes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import oci

from ..problem import Problem
from .pool import Node, Pool
from .session import Session, asking, list_all

POOL = "rollout-pool"  # tag of a copy
SET_BY_OCI = "Oracle-Tags"  # who made it and when: every resource gets its own


@dataclass(frozen=True)
class Recipe:
    """What a node is made from, as far as a running one shows it."""

    image_id: str
    shape: str
    sizes: tuple[float | None, float | None]  # OCPUs, GB; None: as the shape has it
    metadata: dict[str, str]

    def made(self, node: Node) -> bool:
        """Whether the node could be of this recipe."""
        told, config = node.instance.metadata or {}, node.instance.shape_config
        sizes = (config.ocpus, config.memory_in_gbs) if config else (None, None)
        return (
            (node.image_id, node.instance.shape) == (self.image_id, self.shape)
            and all(wanted in (None, is_now) for wanted, is_now in zip(self.sizes, sizes, strict=True))
            and self.metadata.items() <= told.items()
        )


def read_configuration(session: Session, ocid: str) -> Any:
    """The configuration, of the one kind that the stack makes: one instance from one image."""
    with asking(f"instance configuration {ocid}", "pools"):
        found = session.pools.get_instance_configuration(ocid).data
    details = found.instance_details
    launch = getattr(details, "launch_details", None)
    if getattr(details, "instance_type", "") != "compute" or not getattr(launch.source_details, "image_id", None):
        raise Problem(
            f"instance configuration {ocid} ({found.display_name}) does not launch from an image named by its OCID",
            "give the pool a configuration that does, as the stack's has",
        )
    return found


def launch_of(configuration: Any) -> Any:
    return configuration.instance_details.launch_details


def read_recipe(configuration: Any, image_id: str) -> Recipe:
    """The configuration's recipe with this image in place of its own."""
    launch = launch_of(configuration)
    config = launch.shape_config
    sizes = (config.ocpus, config.memory_in_gbs) if config else (None, None)
    return Recipe(image_id, launch.shape, sizes, launch.metadata or {})


def find_configuration(session: Session, pool: Pool, current: Any, image_id: str) -> Any | None:
    """The pool's configuration with this image, where it exists: its own, or the one it had before a rollout that did
    not end. What else a stopped rollout made is a leftover."""
    if launch_of(current).source_details.image_id == image_id:
        return current
    source = find_source(pool, current)
    before = current if source == current.id else read_configuration(session, source)
    return before if launch_of(before).source_details.image_id == image_id else None


def find_source(pool: Pool, current: Any) -> str:
    """What to go back to: what the pool has, or what it had when a rollout put its copy there and did not end."""
    is_copy = POOL in (current.freeform_tags or {})
    return pool.rollout_source if is_copy and pool.rollout_source else current.id


def make_configuration(session: Session, pool: Pool, current: Any, image_id: str) -> Any:
    """A copy of the pool's configuration, field for field, with another image."""
    details = copy.deepcopy(current.instance_details)
    details.launch_details.source_details.image_id = image_id
    wanted = oci.core.models.CreateInstanceConfigurationDetails(
        compartment_id=current.compartment_id,
        display_name=current.display_name,
        freeform_tags={**(current.freeform_tags or {}), POOL: pool.id},
        defined_tags={name: value for name, value in (current.defined_tags or {}).items() if name != SET_BY_OCI},
        instance_details=details,
    )
    with asking("a new instance configuration", "pools"):
        return session.pools.create_instance_configuration(wanted).data


def delete_leftovers(session: Session, pool: Pool, say: Callable[[str], None]) -> None:
    """The copies that rollouts of this pool made and that it does not use now. One that stays does no harm."""
    with asking("the instance configurations", "pools"):
        listed = list_all(session.pools.list_instance_configurations, pool.found.compartment_id)
    for summary in listed:
        if (summary.freeform_tags or {}).get(POOL) != pool.id or summary.id == pool.found.instance_configuration_id:
            continue
        try:
            with asking(f"instance configuration {summary.id}", "pools"):
                session.pools.delete_instance_configuration(summary.id)
        except Problem as problem:
            say(f"left behind: {problem.message}")
