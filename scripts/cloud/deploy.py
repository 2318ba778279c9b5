"""Deploy to Oracle Cloud from here: pack rm-stack/, plan it in Resource Manager, show the plan, apply it, wait for an
answer.

The stack is found by its tags and brought to the files of this tree; variables that it has stay, unless the file given
with --vars says otherwise. A job that is running is followed instead of started again, so after Ctrl-C the same command
goes on. Knows the order of things; stack.py, job.py and first_answer.py do them.

Policies, in the compartment: manage orm-family, instance-family, compute-management-family, virtual-network-family and
load-balancers; inspect compartments in the tenancy. Options of the stack need more: see rm-stack/README.md.
Exit codes: 0 done, 1 a problem or no consent, 2 wrong command line, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..consent import agree
from ..files import REPOSITORY
from ..problem import Problem, run
from ..stack import pack
from ..stack.form import read_blocks
from ..stage import Stages
from . import job as jobs
from . import stack as stacks
from .first_answer import wait_for_answer
from .session import Session, check_compartment, open_session

FOLDER = REPOSITORY / "rm-stack"
OURS = ("region", "compartment_ocid", "name")  # set by the profile, COMPARTMENT and NAME
IMAGE_CHOICES = ("image_source", "image_ocid", "image_url")
NODE = "oci_core_instance_configuration.node"


def main(
    argv: list[str] | None = None,
    sleep: Callable[[float], None] = time.sleep,
    ask: Callable[..., None] = wait_for_answer,
) -> int:
    """`ask` replaces the first question to the deployment in tests, whose load balancer has no real address."""
    options = read_options(argv)
    stages = Stages(options.build / "logs")
    given = read_variables(options.vars)
    zip_file = options.build / "llamakiln-stack.zip"
    with stages.stage("pack"):
        pack.pack(FOLDER, zip_file)
    with stages.stage("account"):
        session = open_session(os.environ)
        stages.say(f"compartment {check_compartment(session, options.compartment)}, region {session.region}")
        stack = stacks.find_stack(session, options.compartment, options.name)
    if stack and (job := jobs.find_running(session, stack)):
        finish_running(session, job, stages, sleep)
    with stages.stage("stack"):
        variables = choose_variables(session, options, given, stack.variables or {} if stack else {})
        stages.say(f"image: {variables.get('image_url') or variables['image_ocid']}")
        stack = bring_stack(session, options, stack, zip_file, variables, stages, sleep)
    with stages.stage("plan"):
        job = jobs.start(session, stack, jobs.plan_details())
        job = jobs.follow(session, job, stages.say, log_of(stages, "plan"), sleep)
        summary = jobs.summarise(jobs.read_plan(session, job))
    for line in summary or ["the deployment is as it should be: nothing to change"]:
        stages.say(line)
    if options.dry_run:
        stages.say("dry run: nothing was applied; the plan is in the console too")
        return 0
    if summary:
        if not agree(f"Apply this to {options.name} in {session.region}?", options.yes):
            stages.say("nothing was applied")
            return 1
        with stages.stage("apply"):
            apply = jobs.start(session, stack, jobs.apply_details(job.id))
            jobs.follow(session, apply, stages.say, log_of(stages, "apply"), sleep)
        if any(NODE in line and "-" in line.split(NODE)[0] for line in summary):
            stages.say("new nodes get the new configuration; to replace those that run: make rollout")
    outputs = stacks.outputs(stacks.read_state(session, stack))
    if host := variables.get("host_name"):
        stages.say(f"{host} must lead to {outputs['load_balancer_address']}: set its DNS record")
    with stages.stage("first answer"):
        is_self_signed = variables.get("https", "self-signed") == "self-signed"
        ask(outputs["url"], outputs["api_key"], is_self_signed, stages.say, sleep)
    print("\n".join(describe(outputs, stack)))
    return 0


def read_options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compartment", required=True, metavar="OCID", help="where everything is made")
    parser.add_argument("--name", default="llamakiln", help="of the deployment (default: %(default)s)")
    parser.add_argument("--image", metavar="OCID", help="default: the one in build/image-oci.json, else the stack's")
    parser.add_argument("--vars", type=Path, metavar="FILE.json", help="variables of rm-stack; null: back to default")
    parser.add_argument("--yes", action="store_true", help="apply without asking")
    parser.add_argument("--dry-run", action="store_true", help="plan only")
    parser.add_argument("--build", type=Path, default=REPOSITORY / "build", metavar="DIRECTORY")
    return parser.parse_args(argv)


def log_of(stages: Stages, operation: str) -> Path:
    return stages.log_directory / f"deploy-{operation}.log"


def read_variables(file: Path | None) -> dict[str, str | None]:
    """What the person's file sets, as Resource Manager takes it: text. Raises Problem with every fault at once."""
    if file is None:
        return {}
    try:
        given = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise Problem(f"{file}: {error}", 'write it like {"pool_size": 3, "https": "off"}') from error
    if not isinstance(given, dict):
        raise Problem(f"{file}: must be an object of variables", 'write it like {"pool_size": 3, "https": "off"}')
    known = read_blocks(FOLDER, "variable")
    faults = [f"unknown variable {name}" for name in given if name not in known]
    faults += [f"{name} comes from COMPARTMENT, NAME or your profile" for name in given if name in OURS]
    if faults:
        raise Problem(f"{file}: {'; '.join(faults)}", "rm-stack/variables.tf explains every variable")
    return {name: None if value is None else as_text(value) for name, value in given.items()}


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def choose_variables(
    session: Session, options: argparse.Namespace, given: dict[str, str | None], there: dict[str, str]
) -> dict[str, str]:
    """What the stack has, then what the file sets, then the image; names that rm-stack no longer knows are left out."""
    known = read_blocks(FOLDER, "variable")
    chosen = {name: value for name, value in {**there, **given}.items() if name in known and value is not None}
    chosen.update(region=session.region, compartment_ocid=options.compartment, name=options.name)
    image = options.image
    if not image and not any(name in given for name in IMAGE_CHOICES):
        image = read_image(options.build / "image-oci.json", session.region)
    if image:
        chosen.update(image_source="ocid", image_ocid=image)
    if not chosen.get("image_ocid") and not chosen.get("image_url"):
        raise Problem("no image is chosen", "make publish or make image-oci first, or IMAGE=ocid1.image...")
    return chosen


def read_image(report: Path, region: str) -> str | None:
    """The image that was published or baked last from here, if it is in this region: images do not cross regions."""
    try:
        found = json.loads(report.read_text())
    except FileNotFoundError:
        return None
    return found["image_ocid"] if found["region"] == region else None


def finish_running(session: Session, job: Any, stages: Stages, sleep: Callable[[float], None]) -> None:
    """Follow what an earlier run began. A plan that ends badly is no matter: a new one is made anyway."""
    stages.say(f"job {job.id} is running ({job.operation}): following it")
    if job.operation == "DESTROY":
        raise Problem(
            f"the stack is being destroyed by job {job.id}", "make destroy follows it; deploy when it is done"
        )
    try:
        jobs.follow(session, job, stages.say, log_of(stages, "running"), sleep)
    except Problem:
        if job.operation != "PLAN":
            raise


def bring_stack(
    session: Session,
    options: argparse.Namespace,
    stack: Any | None,
    zip_file: Path,
    variables: dict[str, str],
    stages: Stages,
    sleep: Callable[[float], None],
) -> Any:
    """The stack with this zip and these variables."""
    if stack is None:
        stack = stacks.make_stack(session, options.compartment, options.name, zip_file, variables, sleep)
        stages.say(f"made {stack.id}")
        return stack
    changed = stacks.update_stack(session, stack, zip_file, variables)
    stages.say(f"{stack.id}: " + (f"changed {', '.join(changed)}" if changed else "as it is"))
    return stack


def describe(outputs: dict[str, Any], stack: Any) -> list[str]:
    """What a person wants to know; of the key only its beginning, because terminals are recorded."""
    key = outputs["api_key"]
    shown = f"{key[:8]}...  (all of it: the stack's page, or the command below)" if key else "none"
    lines = [
        f"URL       {outputs['url']}",
        f"API key   {shown}",
        f"Try       {outputs['curl_example']}",
        f"Cost      {outputs['monthly_estimate']}",
    ]
    if key:
        command = f"oci resource-manager stack get-stack-tf-state --stack-id {stack.id} --file -"
        lines.append(f"Key       export API_KEY=$({command} | jq -r .outputs.api_key.value)")
    return lines


if __name__ == "__main__":
    run(main)
