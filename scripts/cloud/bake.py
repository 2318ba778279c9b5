"""Bake the image in Oracle Cloud: check the account, run packer/oci, allow the image on A1 and A2 (`make image-oci`).

Reads credentials as the oci command line does (~/.oci/config, OCI_CONFIG_FILE, OCI_CLI_PROFILE) and a pkrvars file made
from packer/oci/example.pkrvars.hcl. An image that exists already, from this run or an earlier one, is found again and
not baked again. Writes build/image-oci.json. Knows the order of things; the files beside this do them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..bake.base_disk import choose_base, read_bases
from ..bake.payload import bake_key, gather, image_facts, key_of, read_pins, tree_files, write_stage
from ..files import REPOSITORY
from ..models.catalog import find_model, load_catalog
from ..problem import Problem, run
from ..stage import Stages
from . import image as images
from . import packer as packers
from .preflight import check_account
from .session import BAKING, STATEMENTS, Session, asking, open_session
from .variables import FILLED_IN, read_variables

BASE = "ubuntu-22.04"  # packer/oci takes Oracle's own image of it; library sets and Python packages must fit


@dataclass(frozen=True)
class Contents:
    """What goes onto the image: its key, known before anything is packed, and how to pack it."""

    key: str
    write: Callable[[Path], None]


def main(argv: list[str] | None = None, prepare: Callable[[str, Stages], Contents] | None = None) -> None:
    """`prepare` replaces prepare_contents in tests, which have no library sets at hand."""
    options = read_options(argv)
    variables = read_variables(options.var_file)
    model = find_model(options.model, load_catalog())
    stages = Stages(options.build / "logs")
    began, started = time.monotonic(), datetime.now(timezone.utc)

    with stages.stage("account"):
        session = open_session(os.environ, needs_config_file=True)
        check_account(session, variables, stages.say)
    with stages.stage("packer"):
        packer, packer_version = packers.find_packer()
    contents = (prepare or prepare_contents)(model.name, stages)

    work = options.build.resolve() / "bake-oci"
    filled_in = fill_in(work, session, model.name, contents.key)
    arguments = packers.variable_arguments(options.var_file, filled_in)
    image = images.find_image(session, image_compartment(variables), filled_in["image_name"], contents.key)
    if image is not None:
        stages.skip("image", f"already baked, {image.id}")
    if image is None or options.dry_run:
        shutil.rmtree(work, ignore_errors=True)
        Path(filled_in["inventory_directory"]).mkdir(parents=True)
        with stages.stage("staging"):
            contents.write(Path(filled_in["stage_tar"]))
            packers.validate(packer, arguments)
    if options.dry_run:
        stages.say("dry run: all is well, nothing was launched")
        return
    how = "found"
    if image is None:
        with stages.stage("image: Packer"):
            how, image = bake(session, packer, arguments, variables, filled_in, stages)

    with stages.stage("image: shapes"):
        image = images.wait_until_usable(session, image, stages.say)
        images.allow_shapes(session, image, stages.say)
    report = {
        "image_ocid": image.id,
        "image_name": filled_in["image_name"],
        "region": session.region,
        "compartment_ocid": image_compartment(variables),
        "model": model.name,
        "version": filled_in["version"],
        "bake": contents.key,
        "shapes": list(images.SHAPES),
        "base_image": describe_base(session, image),
        "how": how,
        "packer": packer_version,
        "image_created": image.time_created.isoformat(),
        "started": started.isoformat(timespec="seconds"),
        "duration_s": round(time.monotonic() - began, 1),
        "stages": stages.done,
    }
    stages.say(f"{image.id} is in {images.write_report(options.build, report)}")


def read_options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo", help="a name in packer/models.toml (default: %(default)s)")
    parser.add_argument("--var-file", type=Path, default=REPOSITORY / "packer/oci/my.pkrvars.hcl", metavar="FILE")
    parser.add_argument("--build", type=Path, default=REPOSITORY / "build", metavar="DIRECTORY", help="where files go")
    parser.add_argument("--dry-run", action="store_true", help="check everything, launch nothing")
    return parser.parse_args(argv)


def prepare_contents(model_name: str, stages: Stages) -> Contents:
    """Have every part of the image in the cache, as the local bake does; packed only if a bake needs it."""
    os.chdir(REPOSITORY)
    base, _ = choose_base(BASE, read_bases())
    parts = gather(stages, base, find_model(model_name, load_catalog()))
    template = [path for path in tree_files("packer/oci") if path.name.endswith(".pkr.hcl")]
    key = bake_key(parts, key_of(template))
    return Contents(key, lambda path: write_stage(path, parts, image_facts(parts, key)))


def image_compartment(variables: dict[str, Any]) -> str:
    """Where the image goes: the compartment of its own if there is one."""
    return variables["image_compartment_ocid"] or variables["compartment_ocid"]


def fill_in(work: Path, session: Session, model_name: str, key: str) -> dict[str, str]:
    """The variables of packer/oci that are not the person's."""
    version = read_pins()["LLAMAKILN_VERSION"]
    filled_in = {
        "oci_config_file": str(session.config_file),
        "oci_profile": session.profile,
        "model": model_name,
        "version": version,
        "image_name": f"llamakiln-{model_name}-{version}-arm64",
        "bake": key,
        "stage_tar": str(work / "stage.tar"),
        "inventory_directory": str(work / "inventory"),
        "manifest": str(work / "packer-manifest.json"),
    }
    assert tuple(filled_in) == FILLED_IN
    return filled_in


def bake(
    session: Session,
    packer: str,
    arguments: list[str],
    variables: dict[str, Any],
    filled_in: dict[str, str],
    stages: Stages,
) -> tuple[str, Any]:
    """Run Packer and return ("baked", the image).

    Packer's very last step writes the image's capability schema, which needs a right of its own. When that fails Packer
    fails, though the image is there and good: it is looked for before the failure is believed ("found").
    """
    name, home, log_file = (
        filled_in["image_name"],
        image_compartment(variables),
        stages.log_directory / "packer-oci.log",
    )
    try:
        packers.build(packer, arguments, log_file, stages.say)
        failure = None
    except packers.PackerFailed as failed:
        failure = failed
    image = images.find_image(session, home, name, filled_in["bake"])
    if failure is None:
        if image is None:
            raise Problem(f"Packer succeeded, but {home} has no image {name}", f"read {log_file}")
        return "baked", image
    shown = "\n".join(f"    {line}" for line in failure.tail)
    if image is None:
        ways = advise(session, variables["compartment_ocid"], name, failure.tail)
        raise Problem(f"{failure} and made no image; the last lines of {log_file}:\n{shown}", ways)
    stages.say(f"{failure}, but only after the image was made: going on with {image.id}\n{shown}")
    stages.say(f"to avoid it next time, add the statement `{STATEMENTS['schema']}` to a policy")
    return "found", image


def advise(session: Session, compartment_ocid: str, name: str, tail: list[str]) -> str:
    """What to try after a bake that made no image, by what Packer said last."""
    said = "\n".join(tail)
    ways = []
    if "NotAuthorized" in said:
        ways.append("check that a policy has all of:\n    " + "\n    ".join(STATEMENTS[need] for need in BAKING))
    if "LimitExceeded" in said or "Out of host capacity" in said:
        ways.append("another shape or availability domain in the pkrvars file, or wait")
    if "Timeout waiting for SSH" in said:
        ways.append("let this machine's address in on port 22, or set use_private_ip to fit the network")
    leftovers = images.find_leftover_instances(session, compartment_ocid, f"{name}-bake")
    ways += [f"it still costs money: oci compute instance terminate --instance-id {ocid}" for ocid in leftovers]
    return "\n  try: ".join([*ways, "run again"])


def describe_base(session: Session, image: Any) -> dict[str, str] | None:
    """Which of Oracle's images ours was made from; None where OCI does not say."""
    if not image.base_image_id:
        return None
    with asking(f"base image {image.base_image_id}", "instances"):
        base = session.compute.get_image(image.base_image_id).data
    return {"ocid": base.id, "name": base.display_name}


if __name__ == "__main__":
    run(main)
