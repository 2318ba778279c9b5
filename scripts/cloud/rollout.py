"""Replace the nodes of a pool by nodes of another image while it serves (`make rollout`).

Checks first, and changes nothing until all is well. Then the pool gets a copy of its instance configuration with the
new image, one node more for the time, and each old node leaves when a new one serves. Stopped anywhere, the same
command goes on. Knows the order of things; replacement.py moves the nodes.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import oci

from ..consent import agree
from ..files import REPOSITORY
from ..problem import Problem, run
from ..stage import Stages
from .autoscaling import autoscaling_paused, is_paused, list_autoscaling, resume_autoscaling
from .configuration import (
    Recipe,
    delete_leftovers,
    find_configuration,
    find_source,
    launch_of,
    make_configuration,
    read_configuration,
    read_recipe,
)
from .pool import Pool, read_pool
from .preflight import LIMITS, check_all, read_quota
from .replacement import Replacement, Target
from .session import Session, asking, list_all, open_session, patient

GRACE_S = 300  # where the pool does not say: NGINX on a node ends a request after 290 s
STEADY = ("RUNNING", "SCALING", "PROVISIONING", "STARTING")  # becomes RUNNING by itself
Log = Callable[[str], None]


def main(
    argv: list[str] | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    options = read_options(argv)
    say = Stages(REPOSITORY / "build/logs").say
    session = open_session(os.environ)
    pool = read_pool(session, options.pool)
    current = read_configuration(session, pool.found.instance_configuration_id)
    image_id = options.image or launch_of(current).source_details.image_id
    recipe = read_recipe(current, image_id)
    image = check_rollout(session, pool, recipe, say)

    found = find_configuration(session, pool, current, image_id)
    target = aim(pool, current, found, recipe)
    old = [node.name for node in pool.nodes if not target.is_new(node)]
    is_set = target.configuration_id == pool.found.instance_configuration_id
    if not old and is_set and pool.rollout_size is None:
        if not options.dry_run:  # what an earlier run left: a copy that an apply replaced, autoscaling that is paused
            delete_leftovers(session, pool, say)
            resume_autoscaling(session, pool, say)
        say(f"nothing to do: every node of {pool.found.display_name} is of {image.display_name}")
        return
    autoscaling = [one for one in list_autoscaling(session, pool) if one.is_enabled or is_paused(one)]
    grace_s = options.grace or pool.hold_s or GRACE_S
    for line in describe(pool, image, old, grace_s, autoscaling):
        say(line)
    if options.dry_run:
        say("dry run: nothing was changed")
        return
    if not agree(f"Replace {len(old)} of {len(pool.nodes)} nodes of {pool.found.display_name}?", options.yes):
        say("nothing was changed")
        return

    session = patient(session)
    try:
        with autoscaling_paused(session, pool, say):
            pool = read_pool(session, pool.id)  # its size may have changed until autoscaling was off
            found = found or make_configuration(session, pool, current, image_id)
            target = aim(pool, current, found, recipe)
            Replacement(session, pool.id, target, grace_s, options.timeout * 60, say, clock, sleep).run()
    except KeyboardInterrupt:
        say("the pool goes on serving; the same command goes on from here")
        raise
    say(f"done: every node of {pool.found.display_name} is of {image.display_name}")
    say("the stack does not know it yet: make deploy with the same IMAGE, which replaces no node")


def read_options(argv: list[str] | None) -> argparse.Namespace:
    def positive(text: str) -> float:
        if not float(text) > 0:
            raise ValueError
        return float(text)

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pool", metavar="POOL", help="OCID of the instance pool")
    parser.add_argument("image", metavar="IMAGE", nargs="?", help="OCID of the image (default: the configuration's)")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything, say what would be done, change nothing"
    )
    parser.add_argument(
        "--timeout", type=positive, default=20.0, metavar="MINUTES", help="for a node to serve (default: %(default)g)"
    )
    parser.add_argument(
        "--grace", type=positive, metavar="SECONDS", help="for a drained node's answers (default: as the pool says)"
    )
    return parser.parse_args(argv)


def aim(pool: Pool, current: Any, found: Any | None, recipe: Recipe) -> Target:
    """Where to. A pool that somebody resized since a rollout was stopped keeps its new size."""
    before, now = pool.rollout_size, pool.found.size
    size = before if before is not None and now in (before, before + 1) else now
    source = find_source(pool, current)
    configuration_id = found.id if found else ""
    return Target(configuration_id, recipe, source if source != configuration_id else None, size)


def describe(pool: Pool, image: Any, old: list[str], grace_s: float, autoscaling: list[Any]) -> list[str]:
    """What is going to be done."""
    now = pool.found
    lines = [
        f"{now.display_name}: {now.size} nodes, {pool.n_serving} healthy, {now.lifecycle_state}",
        f"to replace, one at a time: {', '.join(old) or 'none'}",
        f"by nodes of {image.display_name} ({image.id}), with one node more for the time",
        f"each gets no new request and {grace_s:g} s for its answers before it goes",
    ]
    return lines + [f"autoscaling {one.display_name} pauses meanwhile" for one in autoscaling]


# What must hold before anything changes


def check_rollout(session: Session, pool: Pool, recipe: Recipe, log: Log) -> Any:
    """Every fault at once; returns the image."""
    images: list[Any] = []
    checks = [partial(check_pool, pool), lambda: images.append(check_image(session, recipe))]
    if pool.found.size <= (pool.rollout_size or pool.found.size):  # else the one node more is there already
        checks.append(partial(check_room, session, pool, recipe, log))
    check_all(*checks)
    return images[0]


def check_pool(pool: Pool) -> None:
    state = pool.found.lifecycle_state
    if state not in STEADY:
        raise Problem(f"the pool {pool.found.display_name} is {state}: must be RUNNING", "start it in the console")
    if not pool.found.load_balancers:
        raise Problem(
            f"the pool {pool.found.display_name} has no load balancer, so nothing says when a node serves",
            "attach one (the stack does), or replace its nodes by hand",
        )


def check_image(session: Session, recipe: Recipe) -> Any:
    """The image is there, and its shape and firmware let a node of the pool boot from it."""
    hint = "check the OCID: an image stays in its region"
    with asking(f"image {recipe.image_id}", "instances", hint=hint):
        image = session.compute.get_image(recipe.image_id).data
        entries = list_all(session.compute.list_image_shape_compatibility_entries, recipe.image_id)
    name = f"image {image.display_name}"

    def check_state() -> None:
        if image.lifecycle_state != "AVAILABLE":
            raise Problem(f"{name} is {image.lifecycle_state}: must be AVAILABLE", "wait until it is")

    def check_firmware() -> None:
        firmware = image.launch_options.firmware if image.launch_options else None
        if firmware != "UEFI_64":
            raise Problem(
                f"{name} boots with {firmware}: Arm shapes need UEFI_64",
                "import the .oci file instead of the .qcow2, or set its capability Compute.Firmware to UEFI_64",
            )

    def check_shape() -> None:
        if recipe.shape not in [entry.shape for entry in entries]:
            raise Problem(
                f"{name} does not allow {recipe.shape}",
                "oci compute image-shape-compatibility-entry add"
                f" --image-id {recipe.image_id} --shape-name {recipe.shape}",
            )

    check_all(check_state, check_firmware, check_shape)
    return image


def check_room(session: Session, pool: Pool, recipe: Recipe, log: Log) -> None:
    """Quota and hosts for one node more, in one of the pool's availability domains; not known is passed over."""
    faults = []
    domains = [place.availability_domain for place in pool.found.placement_configurations]
    for domain in domains:
        lacking = find_lack(session, recipe, domain, log)
        if lacking:
            faults.append(f"{domain}: {lacking}")
            log(f"room: {faults[-1]}")
    if len(faults) == len(domains):
        raise Problem(
            f"no room for one node more, {recipe.shape}: {'; '.join(faults)}",
            "wait, terminate an instance, ask for a higher limit, or deploy another shape",
        )


def find_lack(session: Session, recipe: Recipe, domain: str, log: Log) -> str:
    """What one node more lacks in this domain; "" if nothing."""
    limits = list(LIMITS.get(recipe.shape, {}).values())
    for limit, wanted in zip(limits, recipe.sizes, strict=False):
        answer = read_quota(session, limit, domain, log)
        if answer and wanted and answer.available < wanted:
            return f"limit {limit} leaves {answer.available} ({answer.used} in use), a node takes {wanted:g}"
    models = oci.core.models
    size = models.CapacityReportInstanceShapeConfig(ocpus=recipe.sizes[0], memory_in_gbs=recipe.sizes[1])
    shape = models.CreateCapacityReportShapeAvailabilityDetails(instance_shape=recipe.shape, instance_shape_config=size)
    wanted = models.CreateComputeCapacityReportDetails(
        compartment_id=session.tenancy, availability_domain=domain, shape_availabilities=[shape]
    )
    try:
        with asking(f"the capacity of {domain}", "capacity"):
            report = session.compute.create_compute_capacity_report(wanted).data
    except Problem as problem:
        log(f"capacity: not known ({problem.message}); {problem.way_out}")
        return ""
    told = report.shape_availabilities[0].availability_status
    return "" if told == "AVAILABLE" else told.lower().replace("_", " ")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C: autoscaling is switched on again
    run(main)
