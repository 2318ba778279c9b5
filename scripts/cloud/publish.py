"""Take the local bake to Oracle Cloud: upload build/*.oci, import it as a custom image, allow it on A1 and A2.

Takes the .oci file that build/manifest.json names, or --file, and checks it against SHA256SUMS. An upload that was
stopped goes on with the parts that the service has, and what is uploaded or imported already is not done again. Writes
build/image-oci.json, as `make image-oci` does. Knows the order of things; storage.py and image_import.py do them.

Policies: manage object-family and manage instance-family in the compartment, inspect compartments in the tenancy.
Exit codes: 0 done, 1 a problem (told on stderr), 2 wrong command line, 130 stopped by Ctrl-C: run again to go on.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..files import REPOSITORY, hash_file, human_size
from ..problem import Problem, run
from ..progress import Progress
from ..stage import Stages
from . import image as images
from . import image_import, storage
from .session import check_compartment, open_session

NAME = re.compile(r"llamakiln-(?P<model>.+)-(?P<version>[0-9.]+)-arm64\.oci")
MAX_LINK_DAYS = 365


@dataclass(frozen=True)
class Bake:
    """The file to publish, and what it is."""

    file: Path
    sha256: str
    model: str
    version: str
    base: dict[str, Any] | None

    @property
    def name(self) -> str:
        return self.file.name.removesuffix(".oci")

    @property
    def object_name(self) -> str:
        return image_import.object_name(self.name, self.sha256)


def main(argv: list[str] | None = None, sleep: Callable[[float], None] = time.sleep) -> None:
    options = read_options(argv)
    stages = Stages(options.build / "logs")
    began, started = time.monotonic(), datetime.now(timezone.utc)
    with stages.stage("file"):
        bake = find_bake(options.build, options.file)
        stages.say(f"{bake.file.name}: {human_size(bake.file.stat().st_size)}, sha256 {bake.sha256}")
    with stages.stage("account"):
        session = open_session(os.environ)
        stages.say(f"compartment {check_compartment(session, options.compartment)}, region {session.region}")
        bucket, has_bucket = storage.open_bucket(session, options.bucket)
        image = image_import.find_imported(session, options.compartment, bake.sha256)
        size = bake.file.stat().st_size
        is_uploaded = has_bucket and storage.has_object(bucket, bake.object_name, size, bake.sha256)
    how = "found" if image else "imported"
    needs_object = options.link_days or not image
    if options.dry_run:
        for line in plan(bake, bucket, options, has_bucket, is_uploaded, image):
            stages.say(line)
        stages.say("dry run: nothing was changed")
        return

    if is_uploaded or not needs_object:
        stages.skip("upload", f"{bake.object_name} is there" if is_uploaded else f"not needed, {image.id} is there")
    else:
        if not has_bucket:
            storage.make_bucket(bucket, options.compartment)
            stages.say(f"bucket {bucket.name}: made, private")
        with stages.stage("upload"):
            storage.upload(bucket, bake.object_name, bake.file, bake.sha256, stages.say, sleep)
    with stages.stage("import"):
        if image is None:
            tags = {"model": bake.model, "version": bake.version, "sha256": bake.sha256}
            shown_name = f"{bake.name}-{bake.sha256[:8]}"  # two bakes of one version can be told apart
            image = image_import.start_import(bucket, bake.object_name, options.compartment, shown_name, tags)
            stages.say("OCI takes 10 to 30 minutes; after Ctrl-C the next run waits for the same image")
        image = image_import.wait_for_import(session, image, stages.say, sleep)
        images.allow_shapes(session, image, stages.say)
    report = {
        "image_ocid": image.id,
        "image_name": image.display_name,
        "region": session.region,
        "compartment_ocid": options.compartment,
        "model": bake.model,
        "version": bake.version,
        "sha256": bake.sha256,
        "shapes": list(images.SHAPES),
        "base_image": bake.base,
        "how": how,
        "image_created": image.time_created.isoformat(),
        "started": started.isoformat(timespec="seconds"),
        "duration_s": round(time.monotonic() - began, 1),
        "stages": stages.done,
    }
    written = images.write_report(options.build, report)
    stages.say(f"{image.display_name} is in {written}; next: make deploy COMPARTMENT=...")
    print(image.id)
    if options.link_days:
        link, expires = storage.make_link(bucket, bake.object_name, options.link_days)
        stages.say(
            f'the link below is for the stack\'s form, "Image link"; who has it can read the file until {expires}'
        )
        print(link)


def read_options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compartment", required=True, metavar="OCID", help="where bucket and image go")
    parser.add_argument("--file", type=Path, metavar="FILE.oci", help="default: the one of build/manifest.json")
    parser.add_argument("--bucket", default="llamakiln", metavar="NAME", help="default: %(default)s")
    parser.add_argument("--link", dest="link_days", type=link_days, metavar="DAYS", help="also make a link to the file")
    parser.add_argument("--build", type=Path, default=REPOSITORY / "build", metavar="DIRECTORY")
    parser.add_argument("--dry-run", action="store_true", help="check everything, change nothing")
    return parser.parse_args(argv)


def link_days(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= MAX_LINK_DAYS:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number of days from 1 to {MAX_LINK_DAYS}")
    return int(text)


def find_bake(build: Path, file: Path | None) -> Bake:
    """The .oci file, verified by the SHA256SUMS beside it; raises Problem."""
    folder = file.parent if file else build
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
    except FileNotFoundError:
        manifest = {"files": []}
    listed = [entry["name"] for entry in manifest["files"] if entry["name"].endswith(".oci")]
    if file is None:
        if not listed:
            raise Problem(f"{folder / 'manifest.json'} names no .oci file", "make image, or FILE=path/to/file.oci")
        file = folder / listed[0]
    if not file.is_file():
        raise Problem(f"{file}: no such file", "make image, or FILE=path/to/file.oci")
    named = NAME.fullmatch(file.name)
    if not named:
        raise Problem(
            f"{file.name}: must be called llamakiln-<model>-<version>-arm64.oci", "give the file its name back"
        )
    is_described = file.name in listed
    return Bake(
        file=file,
        sha256=verify(file, folder / "SHA256SUMS"),
        model=named["model"],
        version=named["version"],
        base={key: manifest["base"][key] for key in ("name", "release")} if is_described else None,
    )


def verify(file: Path, sums: Path) -> str:
    """The file's SHA-256, which is the one that the bake wrote down."""
    try:
        lines = [line.split() for line in sums.read_text().splitlines()]
    except FileNotFoundError as error:
        raise Problem(f"{sums}: no such file, so {file.name} cannot be checked", "make image writes it") from error
    wanted = {name: sha256 for sha256, name in lines}.get(file.name)
    if wanted is None:
        raise Problem(f"{sums} does not name {file.name}", "make image, or take the SHA256SUMS of the same bake")
    progress = Progress(f"checking {file.name}", file.stat().st_size)
    found = hash_file(file, progress.add)
    progress.close()
    if found != wanted:
        raise Problem(f"{file}: sha256 is {found}, and SHA256SUMS says {wanted}", "copy it again, or make image")
    return found


def plan(
    bake: Bake,
    bucket: storage.Bucket,
    options: argparse.Namespace,
    has_bucket: bool,
    is_uploaded: bool,
    image: Any | None,
) -> list[str]:
    """What a run would do."""
    lines = []
    if options.link_days or not image:
        lines += [] if has_bucket else [f"would make the private bucket {bucket.name}"]
        is_begun = has_bucket and storage.find_upload(bucket, bake.object_name)
        verb = "go on uploading" if is_begun else "upload"
        lines.append(f"{bake.object_name} is uploaded" if is_uploaded else f"would {verb} {bake.object_name}")
    lines.append(f"image {image.id} is {image.lifecycle_state}" if image else "would import it as a custom image")
    return [*lines, f"would make a link for {options.link_days} days"] if options.link_days else lines


if __name__ == "__main__":
    run(main)
