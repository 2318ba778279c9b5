"""What an instance pool is like now: its nodes, what each was made from, and what the load balancer thinks of them.

Reads only; `make rollout` and `make status` share it. Knows nothing of why anybody asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import oci

from .session import Session, asking, list_all

# Tags of a pool in a rollout: how many nodes it had and has again at the end, and the configuration it had.
ROLLOUT_SIZE, ROLLOUT_SOURCE = "rollout-size", "rollout-source"
LEAVING = ("DETACHING", "TERMINATION_AWAIT", "TERMINATION_PROCEED")
ENDING = ("TERMINATING", "TERMINATED")
HEALTHY = "OK"


@dataclass(frozen=True)
class Backend:
    """A node as a load balancer sees it."""

    balancer_id: str
    set_name: str
    health: str  # OK, WARNING, CRITICAL, UNKNOWN
    details: Any  # the API's own, for a change of one field


@dataclass(frozen=True)
class Node:
    """An instance of the pool; `backends` is empty until a load balancer knows it."""

    member: Any  # as the pool lists it
    instance: Any
    backends: tuple[Backend, ...]
    n_balancers: int

    @property
    def id(self) -> str:
        return self.member.id

    @property
    def name(self) -> str:
        return self.member.display_name

    @property
    def state(self) -> str:
        return (self.member.state or "UNKNOWN").upper()  # some answers write it "Running"

    @property
    def image_id(self) -> str:
        return getattr(self.instance.source_details, "image_id", None) or self.instance.image_id

    @property
    def is_held(self) -> bool:
        """Detached, and kept alive by the pool's pre-termination action."""
        return self.member.lifecycle_state == "TERMINATION_AWAIT"

    @property
    def is_leaving(self) -> bool:
        return self.state in ENDING or self.member.lifecycle_state in LEAVING

    @property
    def is_drained(self) -> bool:
        """No load balancer gives it a new request."""
        return all(backend.details.drain for backend in self.backends)

    @property
    def health(self) -> str:
        """The worst word of any load balancer; "none" until all know it."""
        if len(self.backends) < self.n_balancers or not self.backends:
            return "none"
        return next((backend.health for backend in self.backends if backend.health != HEALTHY), HEALTHY)

    @property
    def is_serving(self) -> bool:
        closed = any(backend.details.drain or backend.details.offline for backend in self.backends)
        return self.state == "RUNNING" and not self.is_leaving and self.health == HEALTHY and not closed


@dataclass(frozen=True)
class Pool:
    """`found` is the API's own pool."""

    found: Any
    nodes: tuple[Node, ...]  # oldest first
    sets: dict[str, str]  # backend set -> its health as the load balancer sums it up

    @property
    def id(self) -> str:
        return self.found.id

    @property
    def is_running(self) -> bool:
        return self.found.lifecycle_state == "RUNNING"

    @property
    def n_serving(self) -> int:
        return sum(node.is_serving for node in self.nodes)

    @property
    def rollout_size(self) -> int | None:
        """How many nodes the pool had when a rollout began that did not end yet; None without one."""
        told = self.tags.get(ROLLOUT_SIZE, "")
        return int(told) if told.isdecimal() else None

    @property
    def rollout_source(self) -> str | None:
        """The configuration that the pool had when a rollout began that did not end yet."""
        return self.tags.get(ROLLOUT_SOURCE)

    @property
    def tags(self) -> dict[str, str]:
        return self.found.freeform_tags or {}

    @property
    def hold_s(self) -> int | None:
        """How long its pre-termination action holds a node that is to go; None without one."""
        management = self.found.lifecycle_management
        action = management.lifecycle_actions.pre_termination if management and management.lifecycle_actions else None
        return action.timeout if action and action.is_enabled else None


def read_pool(session: Session, ocid: str, instances: dict[str, Any] | None = None) -> Pool:
    """One look. instances: what earlier looks found out about nodes and cannot change; gets what this one finds."""
    instances = {} if instances is None else instances
    hint = "check the OCID: it must be in the profile's region"
    with asking(f"instance pool {ocid}", "pools", hint=hint):
        found = session.pools.get_instance_pool(ocid).data
        members = read_members(session, found)
    with asking(f"the nodes of {found.display_name}", "instances"):
        for member in members:
            if member.id not in instances:
                instances[member.id] = session.compute.get_instance(member.id).data
    attachments = found.load_balancers or []
    known, sets = {}, {}
    for one in attachments:
        status, backends = read_backends(session, one.load_balancer_id, one.backend_set_name)
        known[one.load_balancer_id, one.backend_set_name], sets[one.backend_set_name] = backends, status
    nodes = []
    for member in members:
        told = [
            known.get((one.load_balancer_id, one.backend_set_name), {}).get(one.backend_name)
            for one in member.load_balancer_backends or []
        ]
        backends = tuple(one for one in told if one)
        nodes.append(Node(member, instances[member.id], backends, len(attachments)))
    return Pool(found, tuple(sorted(nodes, key=lambda node: (node.member.time_created, node.id))), sets)


def read_members(session: Session, pool: Any) -> list[Any]:
    """The pool's instances, each with what the list leaves out. One that ends between the two calls is none."""

    def list_live() -> list[str]:
        listed = list_all(session.pools.list_instance_pool_instances, pool.compartment_id, pool.id)
        return [one.id for one in listed if (one.state or "").upper() != "TERMINATED"]

    members = []
    for ocid in list_live():
        try:
            members.append(session.pools.get_instance_pool_instance(pool.id, ocid).data)
        except oci.exceptions.ServiceError as error:
            if error.status != 404 or ocid in list_live():
                raise
    return members


def read_backends(session: Session, balancer_id: str, set_name: str) -> tuple[str, dict[str, Backend]]:
    """The set's health, and every backend by its name.

    The set is asked first: whoever joins before its health is told is left out, and does not pass for healthy.
    """
    with asking(f"backend set {set_name} of {balancer_id}", "balancers"):
        backends = session.balancers.get_backend_set(balancer_id, set_name).data.backends
        health = session.balancers.get_backend_set_health(balancer_id, set_name).data
    told = {
        **dict.fromkeys(health.warning_state_backend_names, "WARNING"),
        **dict.fromkeys(health.critical_state_backend_names, "CRITICAL"),
        **dict.fromkeys(health.unknown_state_backend_names, "UNKNOWN"),
    }
    return health.status, {
        one.name: Backend(balancer_id, set_name, told.get(one.name, HEALTHY), one) for one in backends or []
    }
