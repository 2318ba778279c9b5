"""Jobs of Resource Manager: start one, follow its log as it is written, and say why it failed and what helps.

A stack runs one job at a time, and a job goes on when nobody looks. Knows jobs, logs and plans. Knows nothing of what a
plan is for.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import oci
import oci.resource_manager

from ..problem import Problem
from .image import PATIENT
from .session import STATEMENTS, Session, asking, list_all

MODELS = oci.resource_manager.models
RUNNING = ("ACCEPTED", "IN_PROGRESS", "CANCELING")
POLL_S = 5.0
TAIL_LINES = 25
APPLYING = ("instances", "pools", "networks", "balancers")
Say = Callable[[str], None]
Sleep = Callable[[float], None]

# What the log says -> what helps. The first that fits.
ADVICE = (
    (
        "Out of host capacity",
        "run again: what was made stays, and the next apply goes on; else another shape, fewer OCPUs a node, a smaller"
        " pool or another region (VARS=file.json)",
    ),
    (
        "LimitExceeded",
        "a smaller pool or smaller nodes (VARS=file.json), or ask for more: Governance > Limits in the console",
    ),
    ("QuotaExceeded", "a smaller pool or smaller nodes (VARS=file.json), or raise the compartment's quota"),
    (
        "NotAuthorized",
        "check that a policy has all of:\n    "
        + "\n    ".join(STATEMENTS[need] for need in APPLYING)
        + "\n  and for options those in rm-stack/README.md, section Permissions",
    ),
    ("TooManyRequests", "run again in a minute: what was made stays"),
)


def plan_details() -> Any:
    return MODELS.CreatePlanJobOperationDetails()


def apply_details(plan_job_ocid: str) -> Any:
    """Applies exactly that plan; Resource Manager refuses it when the stack moved on since."""
    return MODELS.CreateApplyJobOperationDetails(
        execution_plan_strategy="FROM_PLAN_JOB_ID", execution_plan_job_id=plan_job_ocid
    )


def destroy_details() -> Any:
    return MODELS.CreateDestroyJobOperationDetails(execution_plan_strategy="AUTO_APPROVED")


def find_running(session: Session, stack: Any) -> Any | None:
    """The stack's job that has not ended."""
    with asking(f"jobs of stack {stack.id}", "stacks"):
        jobs = list_all(session.stacks.list_jobs, stack_id=stack.id, **PATIENT)
    return next((job for job in jobs if job.lifecycle_state in RUNNING), None)


def start(session: Session, stack: Any, details: Any) -> Any:
    """A new job; a repeated call starts it once (retry token)."""
    wanted = MODELS.CreateJobDetails(stack_id=stack.id, job_operation_details=details)
    with asking(f"a {details.operation} job of stack {stack.id}", "stacks"):
        return session.stacks.create_job(wanted, **PATIENT).data


def follow(session: Session, job: Any, say: Say, log_file: Path, sleep: Sleep = time.sleep) -> Any:
    """The job once it has ended well; says each line of its log and keeps them in log_file.

    Raises Problem for one that failed. Ctrl-C leaves it running, and says so.
    """
    log_file.parent.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    new_lines = LogReader(session, job.id).new_lines
    try:
        with log_file.open("w", encoding="utf-8") as file:
            while True:
                with asking(f"job {job.id}", "stacks"):
                    job = session.stacks.get_job(job.id, **PATIENT).data  # before its log: the last lines come too
                for line in new_lines():
                    lines.append(line)
                    file.write(f"{line}\n")
                    say(f"  {line}")
                if job.lifecycle_state not in RUNNING:
                    break
                sleep(POLL_S)
    except KeyboardInterrupt:
        say(f"the {job.operation} job {job.id} goes on in Oracle Cloud; run the same command again to follow it")
        raise
    if job.lifecycle_state != "SUCCEEDED":
        raise failure(job, lines, log_file)
    return job


class LogReader:
    """Reads a job's log page by page; the last page is read again, for the lines that came to it since."""

    def __init__(self, session: Session, job_ocid: str) -> None:
        self._session, self._job_ocid = session, job_ocid
        self._page: str | None = None
        self._n_seen = 0  # of that page

    def new_lines(self) -> Iterator[str]:
        while True:
            place = {"page": self._page} if self._page else {}
            with asking(f"the log of job {self._job_ocid}", "stacks"):
                answer = self._session.stacks.get_job_logs(self._job_ocid, sort_order="ASC", **place, **PATIENT)
            for entry in answer.data[self._n_seen :]:
                yield entry.message
            self._n_seen = len(answer.data)
            if not (answer.next_page and answer.data):
                return
            self._page, self._n_seen = answer.next_page, 0


def failure(job: Any, lines: list[str], log_file: Path) -> Problem:
    """What the log says of the end, and what to try."""
    errors = [number for number, line in enumerate(lines) if "Error:" in line]
    shown = lines[errors[0] :] if errors else lines[-TAIL_LINES:]
    text = "\n".join(lines)
    details = f" ({job.failure_details.message})" if job.failure_details else ""
    advice = next((way for sign, way in ADVICE if sign in text), "correct what the log names, and run again")
    last = "\n".join(f"    {line}" for line in shown[:TAIL_LINES])
    return Problem(
        f"the {job.operation} job {job.id} is {job.lifecycle_state}{details}; its log, {log_file}, says:\n{last}",
        advice,
    )


def read_plan(session: Session, job: Any) -> dict[str, Any]:
    """The plan that a PLAN job made, as Terraform writes it in JSON."""
    with asking(f"the plan of job {job.id}", "stacks"):
        return json.loads(session.stacks.get_job_tf_plan(job.id, tf_plan_format="JSON", **PATIENT).data.content)


def summarise(plan: dict[str, Any]) -> list[str]:
    """A line for each resource that changes and one with the counts; nothing when the plan changes nothing."""
    signs = {"create": "+", "update": "~", "delete": "-"}
    changes = [
        (one["address"], actions)
        for one in plan.get("resource_changes", [])
        if one["mode"] == "managed" and not {"no-op", "read"} & set(actions := one["change"]["actions"])
    ]
    lines = [f"{'/'.join(signs[action] for action in actions):>3} {address}" for address, actions in sorted(changes)]
    if changes:
        added, changed, gone = (sum(verb in actions for _, actions in changes) for verb in signs)
        lines.append(f"{added} to add, {changed} to change, {gone} to destroy")
    elif any(one["actions"] != ["no-op"] for one in plan.get("output_changes", {}).values()):
        lines.append("no resource changes; outputs do")
    return lines
