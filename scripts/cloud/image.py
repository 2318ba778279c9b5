"""Find our image in Oracle Cloud, wait until it can be used, and allow it on the Arm shapes.

Knows images by name and tags. Knows nothing of how they are baked.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import oci

from ..files import replacing
from ..problem import Problem
from .session import Session, asking, list_all

# Packer gives an image only the shape it was baked on. A newer Arm shape is one more line.
SHAPES = ("VM.Standard.A2.Flex", "VM.Standard.A1.Flex")
GROWING = ("PROVISIONING", "IMPORTING")
USABLE = ("AVAILABLE", "EXPORTING")
ENDED = ("TERMINATING", "TERMINATED")
WAIT_MINUTES = 60
POLL_S = 20.0

# After a bake of minutes a passing fault of the network must not lose the result.
PATIENT: dict[str, Any] = {"retry_strategy": oci.retry.DEFAULT_RETRY_STRATEGY}


def find_image(session: Session, compartment_ocid: str, name: str, bake: str) -> Any | None:
    """The image of this name that this bake makes (its tag says so), the newest if there are several.

    Raises Problem when the name is taken by an image of other content: two of one name cannot be told apart later.
    """
    with asking(f"images in {compartment_ocid}", "instances"):
        images = list_all(session.compute.list_images, compartment_ocid, display_name=name, **PATIENT)
    live = [image for image in images if image.lifecycle_state in USABLE + GROWING]
    same = [image for image in live if image.freeform_tags.get("bake") == bake]
    if live and not same:
        raise Problem(
            f"image name {name} is taken by {live[0].id}, baked from other content",
            f"raise LLAMAKILN_VERSION in packer/versions.env, or oci compute image delete --image-id {live[0].id}",
        )
    return max(same, key=lambda image: image.time_created, default=None)


def wait_until_usable(
    session: Session, image: Any, log: Callable[[str], None], sleep: Callable[[float], None] = time.sleep
) -> Any:
    """The image once OCI has finished making it; at most WAIT_MINUTES."""
    for attempt in range(int(WAIT_MINUTES * 60 / POLL_S)):
        if image.lifecycle_state in USABLE:
            return image
        if image.lifecycle_state not in GROWING:
            raise Problem(f"image {image.id} became {image.lifecycle_state}", "bake again")
        if attempt % 6 == 0:
            log(f"image {image.id} is {image.lifecycle_state}: waiting")
        sleep(POLL_S)
        with asking(f"image {image.id}", "instances"):
            image = session.compute.get_image(image.id, **PATIENT).data
    raise Problem(f"image {image.id} is still {image.lifecycle_state} after {WAIT_MINUTES} minutes", "run again later")


def register_shapes(session: Session, image: Any) -> list[str]:
    """Allow the image on every shape of SHAPES; returns those that were missing. Doing it twice changes nothing."""
    with asking(f"the shapes of image {image.id}", "instances"):
        present = {
            entry.shape
            for entry in list_all(session.compute.list_image_shape_compatibility_entries, image.id, **PATIENT)
        }
        missing = [shape for shape in SHAPES if shape not in present]
        for shape in missing:
            session.compute.add_image_shape_compatibility_entry(image.id, shape, **PATIENT)
    return missing


def allow_shapes(session: Session, image: Any, say: Callable[[str], None]) -> None:
    """register_shapes, and tell it."""
    added = register_shapes(session, image)
    say(f"allowed on {', '.join(SHAPES)}" + (f"; new: {', '.join(added)}" if added else ""))


def write_report(build: Path, report: dict[str, Any]) -> Path:
    """Write down what was made, for `make deploy` and whoever asks later; returns where."""
    path = build / "image-oci.json"
    with replacing(path) as file:
        file.write((json.dumps(report, indent=2) + "\n").encode())
    return path


def find_leftover_instances(session: Session, compartment_ocid: str, name: str) -> list[str]:
    """OCIDs of build instances of this name that still cost money: Packer was stopped before it could end them."""
    with asking(f"instances in {compartment_ocid}", "instances"):
        instances = list_all(session.compute.list_instances, compartment_ocid, display_name=name, **PATIENT)
    return [instance.id for instance in instances if instance.lifecycle_state not in ENDED]
