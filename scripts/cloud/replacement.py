"""Replace a pool's nodes one at a time, a new one serving before an old one goes; or take that back.

Looks at the cloud, does the first thing that is missing, looks again: nothing is kept here that a next run could not
see, so a run that was stopped anywhere is finished by another. What cannot be seen, how many nodes the pool had and of
which configuration, is in tags of the pool. Knows nothing of images, checks and consent.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import oci

from ..problem import Problem
from ..stage import clock_text
from .configuration import Recipe, delete_leftovers
from .pool import ROLLOUT_SIZE, ROLLOUT_SOURCE, Node, Pool, read_pool
from .session import Session, asking

POLL_S = 10.0
BUSY = (409, 412)  # the pool or the load balancer works on something else, or changed meanwhile
NO_ROOM = ("LimitExceeded", "QuotaExceeded")
# What a step is about. A time-out in the first two is the new nodes' fault, and taken back.
GROW, HEALTHY, SET_UP, DRAIN, LEAVE, BACK = "grow", "healthy", "set up", "drain", "leave", "back"

Wait = tuple[str, str]  # what it is about, and what to tell


class GaveUp(Exception):
    """Nothing comes of the new nodes."""


class TooLate(Exception):
    """A step took longer than it may."""

    def __init__(self, about: str, doing: str, limit_s: float) -> None:
        super().__init__(f"{doing}, and that for {clock_text(limit_s)} minutes")
        self.about = about


@dataclass(frozen=True)
class Target:
    """Where the pool is to go, and where it goes back to."""

    configuration_id: str
    recipe: Recipe
    source_id: str | None  # None: the pool's configuration was the target before
    size: int

    def is_new(self, node: Node) -> bool:
        return node.member.instance_configuration_id == self.configuration_id or self.recipe.made(node)


class Replacement:
    """grace_s: how long a drained node may finish answers. timeout_s: how long any other step may take."""

    def __init__(
        self,
        session: Session,
        pool_id: str,
        target: Target,
        grace_s: float,
        timeout_s: float,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._session, self._pool_id, self._target = session, pool_id, target
        self._grace_s, self._timeout_s = grace_s, timeout_s
        self._tell, self._clock, self._sleep = say, clock, sleep
        self._instances: dict = {}
        self._rested: set[str] = set()  # drained nodes whose time is up
        self._detached: set[str] = set()
        self._growth: str | None = None  # the work request of the last growth

    def run(self) -> None:
        """To the end. Raises Problem after a way back, or when a step that cannot be taken back does not end."""
        try:
            self._drive(self._set_up)
            self._drive(self._forward)
        except TooLate as late:
            if late.about not in (GROW, HEALTHY):
                raise Problem(str(late), "look at it in the console; the same command goes on from here") from late
            self._take_back(str(late))
        except GaveUp as fault:
            self._take_back(str(fault))
        self._finish()

    def _look(self) -> Pool:
        return read_pool(self._session, self._pool_id, self._instances)

    def _drive(self, step: Callable[[Pool], Wait | None]) -> None:
        """Look and step until nothing is left; one line whenever something is new."""
        about, told, since = "", "", self._clock()
        while wait := step(pool := self._look()):
            if wait[0] != about:
                about, since = wait[0], self._clock()
            if wait[1] != told:
                told = wait[1]
                self._tell(f"{pool.n_serving}/{len(pool.nodes)} healthy  {told}")
            if self._clock() - since > self._timeout_s:
                raise TooLate(about, told, self._timeout_s)
            self._sleep(POLL_S)

    # Forward

    def _set_up(self, pool: Pool) -> Wait | None:
        """Tags and configuration, before any node comes or goes."""
        notes = {ROLLOUT_SIZE: str(self._target.size), ROLLOUT_SOURCE: self._target.source_id}
        tags = {**pool.tags, **{name: note for name, note in notes.items() if note}}
        if tags == pool.tags and pool.found.instance_configuration_id == self._target.configuration_id:
            return None
        self._update_pool(instance_configuration_id=self._target.configuration_id, freeform_tags=tags)
        return SET_UP, f"{pool.found.display_name} gets the new configuration"

    def _forward(self, pool: Pool) -> Wait | None:
        """The first thing that is missing until every node is new."""
        if leaving := self._let_go(pool):
            return leaving
        old = [node for node in pool.nodes if not self._target.is_new(node)]
        if not old:
            return None if pool.is_running else (LEAVE, f"the pool is {pool.found.lifecycle_state}")
        self._check_growth()
        if late := [node for node in pool.nodes if node not in old and not node.is_serving]:
            self._set_drain([node for node in late if node.is_drained], False)
            return HEALTHY, "; ".join(describe(node) for node in late)
        if not pool.is_running:
            return HEALTHY, f"the pool is {pool.found.lifecycle_state}"
        if pool.found.size <= self._target.size:
            self._grow()
            return GROW, f"one node more, {self._target.size + 1} in all"
        if len(pool.nodes) < pool.found.size:
            return HEALTHY, "a new node is to come"
        # One that is drained already, then one that does not serve, then the oldest: as many as before go on serving.
        node = min(old, key=lambda node: (not node.is_drained, node.is_serving))
        if not node.is_drained:
            self._set_drain([node], True)
            return DRAIN, f"{node.name} gets no new request"
        if node.backends and node.id not in self._rested:
            self._rest(node)
            return LEAVE, f"{node.name} has had its time"
        self._detach(node)
        return LEAVE, f"{node.name} goes"

    def _let_go(self, pool: Pool) -> Wait | None:
        """Wait for nodes that are on their way out. One that was drained here need not be held again by the pool."""
        leaving = [node for node in pool.nodes if node.is_leaving or node.id in self._detached]
        for node in leaving:
            if node.is_held and node.id in self._detached:
                wanted = oci.core.models.TerminationProceedInstancePoolInstanceDetails(instance_id=node.id)
                with unless_busy(f"the end of {node.name}", "pools"):
                    self._session.pools.termination_proceed_instance_pool_instance(self._pool_id, wanted)
        return (LEAVE, f"{', '.join(node.name for node in leaving)} ends") if leaving else None

    def _grow(self) -> None:
        try:
            self._growth = self._update_pool(size=self._target.size + 1)
        except Problem as problem:
            cause = problem.__cause__
            if getattr(cause, "code", "") in NO_ROOM or "capacity" in getattr(cause, "message", "").lower():
                raise GaveUp(problem.message) from problem
            raise

    def _check_growth(self) -> None:
        """OCI accepts a growth at once and fails it later: its work request knows why."""
        if not self._growth:
            return
        try:
            with asking(f"work request {self._growth}", "pools"):
                status = self._session.work_requests.get_work_request(self._growth).data.status
                if status != "FAILED":
                    return
                errors = self._session.work_requests.list_work_request_errors(self._growth).data
        except Problem as problem:  # the time-out notices as well
            self._tell(f"not known how the growth fares: {problem.message}")
            self._growth = None
            return
        raise GaveUp("; ".join(error.message for error in errors) or f"work request {self._growth} failed")

    def _rest(self, node: Node) -> None:
        """The node's clients get their answers to the end."""
        left = self._grace_s
        while left > 0:
            self._tell(f"{node.name} finishes its answers: {clock_text(left)} left")
            self._sleep(min(60.0, left))
            left -= 60.0
        self._rested.add(node.id)

    # Back

    def _take_back(self, why: str) -> None:
        """The old nodes serve, as many as before; what the new ones lack is told."""
        self._tell(f"taking it back: {why}")
        self._growth = None
        try:
            self._drive(self._back)
        except TooLate as late:
            raise Problem(
                f"{why}; and taking it back did not end: {late}",
                "look at the pool in the console; the same command starts again from there",
            ) from late
        self._finish()
        ways = "look at the log of such a node (journalctl -u llm), or try another image"
        if any(word in why.lower() for word in ("capacity", "limit", "quota")):
            ways = "wait, give the stack another shape or fewer OCPUs a node, or ask for a higher limit; then run again"
        kept = "" if self._target.source_id else "; its configuration was the new one before, and stays"
        raise Problem(f"the rollout was taken back: {why}{kept}", ways)

    def _back(self, pool: Pool) -> Wait | None:
        """The first thing that is missing until the pool is as before, but for new nodes that serve."""
        old = [node for node in pool.nodes if not self._target.is_new(node)]
        if drained := [node for node in old if node.backends and node.is_drained and not node.is_leaving]:
            self._set_drain(drained, False)
            return BACK, f"{', '.join(node.name for node in drained)} gets requests again"
        source = self._target.source_id
        if source and pool.found.instance_configuration_id != source:
            self._update_pool(instance_configuration_id=source)
            return BACK, "the pool gets its old configuration"
        if leaving := self._let_go(pool):
            return leaving
        if not pool.is_running:
            return BACK, f"the pool is {pool.found.lifecycle_state}"
        bad = [node for node in pool.nodes if node not in old and not node.is_serving]
        if bad and (source or len(pool.nodes) > self._target.size):  # else only another bad one would come
            self._detach(bad[-1])
            return LEAVE, f"{bad[-1].name} goes, it does not serve"
        # Without as many nodes as its size a pool has none to choose from when it shrinks.
        missing = pool.found.size - max(len(pool.nodes), self._target.size)
        if missing > 0 or (source and pool.found.size < self._target.size):
            self._update_pool(size=self._target.size)
            return BACK, f"{self._target.size} nodes in all"
        return None

    def _finish(self) -> None:
        """No copy stays behind, and then no tag: a run that ends in between leaves the rest to the next."""
        pool = self._look()
        delete_leftovers(self._session, pool, self._tell)
        tags = {name: value for name, value in pool.tags.items() if name not in (ROLLOUT_SIZE, ROLLOUT_SOURCE)}
        with asking(f"the tags of {pool.found.display_name}", "pools"):
            wanted = oci.core.models.UpdateInstancePoolDetails(freeform_tags=tags)
            self._session.pools.update_instance_pool(pool.id, wanted)

    # What changes the cloud

    def _update_pool(self, **changes: object) -> str | None:
        """The work request that carries it out; None where OCI names none, or was busy."""
        wanted = oci.core.models.UpdateInstancePoolDetails(**changes)
        with unless_busy(f"a change of pool {self._pool_id}", "pools", "instances", "network", "balancers"):
            return self._session.pools.update_instance_pool(self._pool_id, wanted).headers.get("opc-work-request-id")
        return None

    def _detach(self, node: Node) -> None:
        """End it and make the pool smaller by it: never by a size alone, which leaves OCI to choose the node."""
        wanted = oci.core.models.DetachInstancePoolInstanceDetails(
            instance_id=node.id, is_decrement_size=True, is_auto_terminate=True
        )
        with unless_busy(f"detaching {node.name}", "pools", "instances", "network", "balancers"):
            self._session.pools.detach_instance_pool_instance(self._pool_id, wanted)
            self._detached.add(node.id)

    def _set_drain(self, nodes: list[Node], is_drained: bool) -> None:
        """A drained backend keeps the requests it has and gets no new one."""
        for backend in (backend for node in nodes for backend in node.backends if backend.details.drain != is_drained):
            now = backend.details
            wanted = oci.load_balancer.models.UpdateBackendDetails(
                weight=now.weight,
                max_connections=now.max_connections,
                backup=now.backup,
                drain=is_drained,
                offline=now.offline,
            )
            with unless_busy(f"backend {now.name}", "balancers"):
                self._session.balancers.update_backend(wanted, backend.balancer_id, backend.set_name, now.name)


def describe(node: Node) -> str:
    """For a node that is waited for."""
    return f"{node.name} is {node.state}, its backend {node.health}"


@contextlib.contextmanager
def unless_busy(what: str, *needs: str) -> Iterator[None]:
    """`asking`, but a refusal for now is passed over: the next look shows that it was not done."""
    try:
        with asking(what, *needs):
            yield
    except Problem as problem:
        if getattr(problem.__cause__, "status", None) not in BUSY:
            raise
