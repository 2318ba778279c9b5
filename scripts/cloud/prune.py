"""Delete old Llamakiln images and their uploaded files in Oracle Cloud: of each model the newest KEEP stay.

The parts of an upload that nobody went on with for STALE_DAYS cost money, too, and go.

An image that an instance, an instance configuration or a stack uses stays too, in whichever compartment that is, and
so does one that a stack imported by itself: the stack takes it away. Shows the list and asks first.

Policies: manage instance-family and object-family in the compartment; read instance-family, compute-management-family
and orm-family, and inspect compartments, in the tenancy.
Exit codes: 0 done, 1 a problem or no consent, 2 wrong command line.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from itertools import groupby
from pathlib import Path
from typing import Any

from ..consent import agree
from ..files import REPOSITORY
from ..problem import run
from ..stage import Stages
from . import image_import, storage
from .image import PATIENT
from .session import Session, asking, check_compartment, list_all, open_session
from .uses import find_uses

STALE_DAYS = 7
SETTLED = ("AVAILABLE", "DISABLED")  # neither being made nor on its way out


@dataclass(frozen=True)
class Verdict:
    """What becomes of an image, and why it stays."""

    image: Any
    reason: str = ""  # empty: it goes

    @property
    def model(self) -> str:
        return self.image.freeform_tags.get("model", "")

    @property
    def object_name(self) -> str:
        """Its uploaded file; empty for an image that was baked in the cloud."""
        tags = self.image.freeform_tags
        if "sha256" not in tags:
            return ""
        return image_import.object_name(f"llamakiln-{tags['model']}-{tags['version']}-arm64", tags["sha256"])


def main(argv: list[str] | None = None) -> int:
    options = read_options(argv)
    stages = Stages(options.build / "logs")
    with stages.stage("account"):
        session = open_session(os.environ)
        stages.say(f"compartment {check_compartment(session, options.compartment)}, region {session.region}")
        bucket, has_bucket = storage.open_bucket(session, options.bucket)
        stored = {one.name: one for one in storage.list_objects(bucket, "llamakiln-")} if has_bucket else {}
        stale = find_stale(bucket) if has_bucket else []
    with stages.stage("images and who uses them"):
        verdicts = judge(list_ours(session, options.compartment), find_uses(session), options.keep)
    for verdict in verdicts:
        created = f"{verdict.image.time_created:%Y-%m-%d}"
        file = " and its file" if not verdict.reason and verdict.object_name in stored else ""
        fate = f"stays: {verdict.reason}" if verdict.reason else f"goes{file}"
        stages.say(f"  {verdict.image.display_name}, {created}, {verdict.image.id}: {fate}")
    going = [verdict for verdict in verdicts if not verdict.reason]
    for upload in stale:
        stages.say(f"  unfinished upload of {upload.object}, begun {upload.time_created:%Y-%m-%d}: goes")
    if not going and not stale:
        stages.say("nothing to delete")
        return 0
    what = [f"{len(going)} of {len(verdicts)} images"] if going else []
    what += [f"{len(stale)} unfinished uploads"] if stale else []
    if not agree(f"Delete {' and '.join(what)} in {session.region}?", options.yes):
        stages.say("nothing was deleted")
        return 1
    for upload in stale:
        storage.abort_upload(bucket, upload)
    for verdict in going:
        # The file first: stopped in between, the image is still there to find it by.
        if verdict.object_name in stored:
            storage.delete_object(bucket, verdict.object_name)
        with asking(f"image {verdict.image.id}", "instances"):
            session.compute.delete_image(verdict.image.id, **PATIENT)
        stages.say(f"deleted {verdict.image.display_name}")
    return 0


def read_options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compartment", required=True, metavar="OCID", help="where the images are")
    parser.add_argument("--keep", type=count, default=3, metavar="N", help="of each model (default: %(default)s)")
    parser.add_argument("--bucket", default="llamakiln", metavar="NAME", help="default: %(default)s")
    parser.add_argument("--yes", action="store_true", help="delete without asking")
    parser.add_argument("--build", type=Path, default=REPOSITORY / "build", metavar="DIRECTORY", help="for logs")
    return parser.parse_args(argv)


def count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number from 1")
    return int(text)


def find_stale(bucket: storage.Bucket) -> list[Any]:
    """Uploads of ours that were begun long ago and never finished."""
    oldest = datetime.now(timezone.utc) - timedelta(days=STALE_DAYS)
    with asking(f"uploads to bucket {bucket.name}", "storage"):
        uploads = storage.list_uploads(bucket)
    return [one for one in uploads if one.object.startswith("llamakiln-") and one.time_created < oldest]


def list_ours(session: Session, compartment_ocid: str) -> list[Any]:
    """The images that `make publish`, `make image-oci` or a stack made here."""
    with asking(f"images in {compartment_ocid}", "instances"):
        images = list_all(session.compute.list_images, compartment_ocid, **PATIENT)
    return [
        image
        for image in images
        if image.compartment_id == compartment_ocid
        and (image.freeform_tags or {}).get("product") == image_import.PRODUCT
        and image.lifecycle_state not in ("DELETED", "DELETING")
    ]


def judge(images: list[Any], uses: dict[str, str], keep: int) -> list[Verdict]:
    """Each image's fate, by model, the newest first."""
    by_model = sorted(images, key=lambda image: image.time_created, reverse=True)
    by_model.sort(key=lambda image: image.freeform_tags.get("model", ""))
    verdicts = []
    for _, group in groupby(by_model, key=lambda image: image.freeform_tags.get("model", "")):
        n_kept = 0
        for image in group:
            if "deployment" in image.freeform_tags:
                verdicts.append(Verdict(image, f"deployment {image.freeform_tags['deployment']} imported it"))
                continue
            n_kept += 1
            verdicts.append(Verdict(image, reason_to_stay(Verdict(image), uses, n_kept, keep)))
    return verdicts


def reason_to_stay(verdict: Verdict, uses: dict[str, str], number: int, keep: int) -> str:
    """Why this image stays, the `number`th newest of its model; empty if it may go."""
    image = verdict.image
    if number <= keep:
        return f"one of the {keep} newest"
    if image.lifecycle_state not in SETTLED:
        return f"it is {image.lifecycle_state}"
    if image.id in uses:
        return f"used by {uses[image.id]}"
    links = [user for value, user in uses.items() if verdict.object_name and value.endswith(f"/{verdict.object_name}")]
    return f"its file is used by {links[0]}" if links else ""


if __name__ == "__main__":
    run(main)
