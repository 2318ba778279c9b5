"""Make a custom image in Oracle Cloud of an .oci file in a bucket, and find it again by the file's checksum.

Knows images, their tags and the work requests that make them. Knows nothing of how the file came into the bucket.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import oci

from ..problem import Problem
from .image import GROWING, PATIENT, USABLE
from .session import Session, asking, list_all
from .storage import Bucket

MODELS = oci.core.models
PRODUCT = "llamakiln"
WAIT_MINUTES = 120
POLL_S = 20.0
Log = Callable[[str], None]


def object_name(image_name: str, sha256: str) -> str:
    """What a file is called in the bucket: other content has another name, and the stack reads the model from it."""
    return f"{image_name}-{sha256[:16]}.oci"


def find_imported(session: Session, compartment_ocid: str, sha256: str) -> Any | None:
    """The image made of the file with this checksum, finished or on its way; the newest if there are several."""
    with asking(f"images in {compartment_ocid}", "instances"):
        images = list_all(session.compute.list_images, compartment_ocid, **PATIENT)
    same = [
        image
        for image in images
        if image.freeform_tags.get("sha256") == sha256 and image.lifecycle_state in USABLE + GROWING
    ]
    return max(same, key=lambda image: image.time_created, default=None)


def start_import(bucket: Bucket, name: str, compartment_ocid: str, image_name: str, tags: dict[str, str]) -> Any:
    """The new image; the .oci file says UEFI and paravirtualized itself. A repeated call makes it once."""
    details = MODELS.CreateImageDetails(
        compartment_id=compartment_ocid,
        display_name=image_name,
        freeform_tags={"product": PRODUCT, **tags},
        image_source_details=MODELS.ImageSourceViaObjectStorageTupleDetails(
            namespace_name=bucket.namespace, bucket_name=bucket.name, object_name=name
        ),
    )
    with asking(f"the import of {name}", "instances", "storage"):
        return bucket.session.compute.create_image(details, **PATIENT).data


def wait_for_import(session: Session, image: Any, log: Log, sleep: Callable[[float], None] = time.sleep) -> Any:
    """The image once it can be used; at most WAIT_MINUTES. Raises Problem with the import's own error."""
    said = None
    for _ in range(int(WAIT_MINUTES * 60 / POLL_S)):
        if image.lifecycle_state in USABLE:
            return image
        work = find_work(session, image)
        if image.lifecycle_state not in GROWING:
            raise Problem(
                f"image {image.id} became {image.lifecycle_state}: {explain(session, work)}",
                "check the file with sha256sum -c SHA256SUMS, delete the object in the bucket, and run again; if it"
                " fails in the same way, bake again: make image",
            )
        line = f"{image.lifecycle_state}, {work.percent_complete:.0f} %" if work else image.lifecycle_state
        if line != said:
            log(f"image {image.id}: {line}")
            said = line
        sleep(POLL_S)
        with asking(f"image {image.id}", "instances"):
            image = session.compute.get_image(image.id, **PATIENT).data
    raise Problem(f"image {image.id} is still {image.lifecycle_state} after {WAIT_MINUTES} minutes", "run again later")


def find_work(session: Session, image: Any) -> Any | None:
    """The work request that makes the image; None where OCI shows none."""
    with asking(f"work requests of image {image.id}", "instances"):
        found = list_all(
            session.work_requests.list_work_requests, image.compartment_id, resource_id=image.id, **PATIENT
        )
    return max(found, key=lambda work: work.time_accepted, default=None)


def explain(session: Session, work: Any | None) -> str:
    """What the work request says went wrong."""
    if work is None:
        return "OCI gives no reason"
    with asking(f"work request {work.id}", "instances"):
        errors = list_all(session.work_requests.list_work_request_errors, work.id, **PATIENT)
    return "; ".join(error.message for error in errors) or f"work request {work.id} is {work.status}"
