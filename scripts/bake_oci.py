#!/usr/bin/env python3
"""Bake the image in Oracle Cloud: check the account, run packer/oci, allow the image on A1 and A2 (`make image-oci`).

Reads credentials as the oci command line does (~/.oci/config, OCI_CONFIG_FILE, OCI_CLI_PROFILE) and a pkrvars file made
from packer/oci/example.pkrvars.hcl. An image that exists already, from this run or an earlier one, is found again and
not baked again. Writes build/image-oci.json. Knows the order of things; each thing itself is an oci_*.py beside this.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import oci_image
import oci_packer
from files import REPOSITORY, hash_file, human_size, replacing
from oci_preflight import check_account
from oci_session import STATEMENTS, Session, asking, open_session
from oci_variables import FILLED_IN, read_variables
from problem import Problem, run


def log(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> None:
    options = read_options(argv)
    variables = read_variables(options.vars)
    pins = oci_packer.read_pins()
    if not options.stage_tar.is_file():
        raise Problem(f"{options.stage_tar} does not exist: nothing to bake", "make image-oci makes it first")
    began = time.monotonic()
    started = datetime.now(timezone.utc)

    log("1/4 checking")
    session = open_session(os.environ)
    check_account(session, variables, log)
    packer, packer_version = oci_packer.find_packer()
    name = f"llamakiln-{options.model}-{pins['LLAMAKILN_VERSION']}-arm64"
    filled_in = fill_in(options, session, name, pins["LLAMAKILN_VERSION"])
    arguments = oci_packer.variable_arguments(options.vars, filled_in)
    oci_packer.validate(packer, arguments)
    log(f"contents: {options.stage_tar}, {human_size(options.stage_tar.stat().st_size)}")

    home = image_compartment(variables)
    image = oci_image.find_image(session, home, name, filled_in["stage_sha256"])
    log(f"image {name}: {f'there already, {image.id}' if image else 'not there yet'}")
    if options.dry_run:
        log("dry run: all is well, nothing was launched")
        return

    log("2/4 baking" if image is None else "2/4 baking: not needed")
    how = "found"
    if image is None:
        how, image = bake(session, packer, arguments, options, variables, filled_in)
    image = oci_image.wait_until_usable(session, image, log)

    log("3/4 allowing the image on its shapes")
    added = oci_image.register_shapes(session, image)
    log(f"shapes: {', '.join(oci_image.SHAPES)} ({f'added {len(added)}' if added else 'all were there'})")

    log("4/4 writing down what was made")
    with asking(f"base image {image.base_image_id}", "instances"):
        base = session.compute.get_image(image.base_image_id).data if image.base_image_id else None
    report = {
        "image_ocid": image.id,
        "image_name": name,
        "region": session.region,
        "compartment_ocid": home,
        "model": options.model,
        "version": pins["LLAMAKILN_VERSION"],
        "stage_sha256": filled_in["stage_sha256"],
        "shapes": list(oci_image.SHAPES),
        "base_image": {"ocid": base.id, "name": base.display_name} if base else None,
        "how": how,
        "packer": packer_version,
        "image_created": image.time_created.isoformat(),
        "started": started.isoformat(timespec="seconds"),
        "duration_s": round(time.monotonic() - began, 1),
    }
    with replacing(options.output) as file:
        file.write((json.dumps(report, indent=2) + "\n").encode())
    log(f"image: {image.id}, {options.output}")


def read_options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo", help="name in packer/models.toml (demo)")
    parser.add_argument("--vars", type=Path, default=REPOSITORY / "packer/oci/my.pkrvars.hcl", metavar="FILE")
    parser.add_argument("--stage-tar", type=Path, default=REPOSITORY / "build/stage.tar", metavar="FILE")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "build/image-oci.json", metavar="FILE")
    parser.add_argument("--logs", type=Path, default=REPOSITORY / "build/logs", metavar="DIRECTORY")
    parser.add_argument("--dry-run", action="store_true", help="check everything, launch nothing")
    return parser.parse_args(argv)


def image_compartment(variables: dict[str, Any]) -> str:
    """Where the image goes: the compartment of its own if there is one."""
    return variables["image_compartment_ocid"] or variables["compartment_ocid"]


def fill_in(options: argparse.Namespace, session: Session, name: str, version: str) -> dict[str, str]:
    """The variables of packer/oci that are not the person's."""
    inventory = options.output.parent.resolve() / "inventory-oci"
    inventory.mkdir(parents=True, exist_ok=True)
    filled_in = {
        "oci_config_file": str(session.config_file),
        "oci_profile": session.profile,
        "model": options.model,
        "version": version,
        "image_name": name,
        "stage_tar": str(options.stage_tar.resolve()),
        "stage_sha256": hash_file(options.stage_tar),
        "inventory_directory": str(inventory),
        "manifest": str(options.output.parent.resolve() / "packer-oci-manifest.json"),
    }
    assert tuple(filled_in) == FILLED_IN
    return filled_in


def bake(
    session: Session,
    packer: str,
    arguments: list[str],
    options: argparse.Namespace,
    variables: dict[str, Any],
    filled_in: dict[str, str],
) -> tuple[str, Any]:
    """Run Packer and return ("baked", the image).

    Packer's very last step writes the image's capability schema, which needs a right of its own. When that fails Packer
    fails, though the image is there and good: it is looked for before the failure is believed ("found").
    """
    name, home = filled_in["image_name"], image_compartment(variables)
    try:
        oci_packer.build(packer, arguments, options.logs / "packer-oci.log", log)
        failure = None
    except oci_packer.PackerFailed as failed:
        failure = failed
    image = oci_image.find_image(session, home, name, filled_in["stage_sha256"])
    if failure is None:
        if image is None:
            raise Problem(f"Packer succeeded, but {home} has no image {name}", f"read {options.logs}/packer-oci.log")
        return "baked", image
    log("\n".join(f"  | {line}" for line in failure.tail))
    if image is not None:
        log(f"{failure}, but only after the image was made: going on with {image.id}")
        log(f"  to avoid it next time, add the statement `{STATEMENTS['schema']}` to a policy")
        return "found", image
    raise Problem(
        f"{failure}; last lines above, all of it in {failure.log_file}",
        advise(session, variables["compartment_ocid"], name, failure),
    )


def advise(session: Session, compartment_ocid: str, name: str, failure: oci_packer.PackerFailed) -> str:
    """What to try after a bake that made no image, by what Packer said last."""
    said = "\n".join(failure.tail)
    ways = []
    if "NotAuthorizedOrNotFound" in said or "NotAuthorized" in said:
        ways.append("check that a policy has all of:\n    " + "\n    ".join(STATEMENTS.values()))
    if "LimitExceeded" in said or "Out of host capacity" in said:
        ways.append("another shape or availability domain in the pkrvars file, or wait")
    if "Timeout waiting for SSH" in said:
        ways.append("let this machine's address in on port 22, or set use_private_ip to fit the network")
    leftovers = oci_image.find_leftover_instances(session, compartment_ocid, f"{name}-bake")
    ways += [f"it still costs money: oci compute instance terminate --instance-id {ocid}" for ocid in leftovers]
    return "\n  try: ".join([*ways, "run again"])


if __name__ == "__main__":
    run(main)
