"""Take a deployment away: show what goes, run Resource Manager's DESTROY job, delete the stack.

Images that were chosen by OCID stay. A job that is running is followed first. Nothing there is no error.

Policies: those of `make deploy`.
Exit codes: 0 done, 1 a problem or no consent, 2 wrong command line, 130 stopped by Ctrl-C: run again to go on.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

from ..consent import agree
from ..files import REPOSITORY
from ..problem import Problem, run
from ..stage import Stages
from . import job as jobs
from . import stack as stacks
from .session import check_compartment, open_session


def main(argv: list[str] | None = None, sleep: Callable[[float], None] = time.sleep) -> int:
    options = read_options(argv)
    stages = Stages(options.build / "logs")
    with stages.stage("account"):
        session = open_session(os.environ)
        stages.say(f"compartment {check_compartment(session, options.compartment)}, region {session.region}")
        stack = stacks.find_stack(session, options.compartment, options.name)
    if stack is None:
        stages.say(f"there is no deployment {options.name}: nothing to destroy")
        return 0
    log_file = stages.log_directory / "destroy.log"
    if job := jobs.find_running(session, stack):
        stages.say(f"job {job.id} is running ({job.operation}): following it")
        try:
            jobs.follow(session, job, stages.say, log_file, sleep)
        except Problem as problem:
            stages.say(problem.message)
    made = stacks.resources(stacks.read_state(session, stack))
    for address in made:
        stages.say(f"  - {address}")
    stages.say(f"{len(made)} resources, and the stack {stack.id}")
    if not agree(f"Destroy all of {options.name} in {session.region}?", options.yes):
        stages.say("nothing was destroyed")
        return 1
    if made:
        with stages.stage("destroy"):
            job = jobs.start(session, stack, jobs.destroy_details())
            jobs.follow(session, job, stages.say, log_file, sleep)
    stacks.delete_stack(session, stack)
    stages.say(f"{options.name} is gone")
    return 0


def read_options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compartment", required=True, metavar="OCID", help="where the deployment is")
    parser.add_argument("--name", default="llamakiln", help="of the deployment (default: %(default)s)")
    parser.add_argument("--yes", action="store_true", help="destroy without asking")
    parser.add_argument("--build", type=Path, default=REPOSITORY / "build", metavar="DIRECTORY", help="for the log")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
