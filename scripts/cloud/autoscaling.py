"""Pause the autoscaling of a pool while somebody else sets its size, and switch it on again whatever happens.

What was paused says so in a tag, so that a later run finds what a killed one could not switch on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import oci.autoscaling

from ..problem import Problem
from .pool import Pool
from .session import Session, asking, list_all

PAUSED = "rollout-paused"


def list_autoscaling(session: Session, pool: Pool) -> list[Any]:
    """The autoscaling configurations of the pool."""
    with asking("the autoscaling configurations", "autoscaling"):
        found = list_all(session.autoscaling.list_auto_scaling_configurations, pool.found.compartment_id)
    return [one for one in found if one.resource.id == pool.id]


def is_paused(configuration: Any) -> bool:
    """Whether a rollout switched it off and did not switch it on again."""
    return PAUSED in (configuration.freeform_tags or {})


def resume_autoscaling(session: Session, pool: Pool, say: Callable[[str], None]) -> None:
    """Switch on again what a rollout paused; what was off before stays off."""
    for found in filter(is_paused, list_autoscaling(session, pool)):
        tags = {name: value for name, value in found.freeform_tags.items() if name != PAUSED}
        switch(session, found, True, tags)
        say(f"autoscaling {found.display_name} is on again")


def switch(session: Session, configuration: Any, is_enabled: bool, tags: dict[str, str]) -> None:
    wanted = oci.autoscaling.models.UpdateAutoScalingConfigurationDetails(is_enabled=is_enabled, freeform_tags=tags)
    with asking(f"autoscaling {configuration.display_name}", "autoscaling"):
        session.autoscaling.update_auto_scaling_configuration(configuration.id, wanted)


@contextlib.contextmanager
def autoscaling_paused(session: Session, pool: Pool, say: Callable[[str], None]) -> Iterator[None]:
    """Off within the block, on again after it, also after a failure and Ctrl-C."""
    try:
        for found in list_autoscaling(session, pool):
            if found.is_enabled:
                switch(session, found, False, {**(found.freeform_tags or {}), PAUSED: "yes"})
                say(f"autoscaling {found.display_name} is paused")
        yield
    except BaseException:
        try:
            resume_autoscaling(session, pool, say)
        except Problem as problem:  # the first fault is the one to tell
            say(f"autoscaling may still be paused: {problem.message}; the same command switches it on again")
        raise
    resume_autoscaling(session, pool, say)
