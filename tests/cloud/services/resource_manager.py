"""Resource Manager: stacks made of a zip, and jobs that really run Terraform on it, with the stand-in provider.

A stack's state is a file of its own, its variables reach Terraform as text, one job runs at a time. A job runs in a
thread inside `with running_jobs(tenancy, terraform, folder):`; `tenancy.job_news` is set whenever one has said or done
something.
"""

from __future__ import annotations

import base64
import io
import os
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import bottle

from tests.cloud.tenancy import Json, Kind, Refused, Tenancy, now

VERSION = "20180917"
RUNNING = ("ACCEPTED", "IN_PROGRESS", "CANCELING")
STACK = Kind("stacks", VERSION, "ormstack", making="CREATING", ready="ACTIVE", ending="DELETING", gone="DELETED")
JOB = Kind("jobs", VERSION, "ormjob")


class Runner:
    """Runs the tenancy's jobs, each stack in a folder of its own."""

    def __init__(self, tenancy: Tenancy, terraform: Path, folder: Path, reattach: str) -> None:
        self.tenancy, self.terraform, self.folder, self.reattach = tenancy, terraform, folder, reattach
        self.threads: list[threading.Thread] = []

    def place(self, stack: Json) -> Path:
        return self.folder / stack["id"].rsplit(".", 1)[1]

    def start(self, stack: Json, job: Json) -> None:
        thread = threading.Thread(target=self._run, args=(stack, job), daemon=True)
        self.threads.append(thread)
        thread.start()

    def _run(self, stack: Json, job: Json) -> None:
        self._become(job, "IN_PROGRESS")
        folder = self.place(stack)
        folder.mkdir(exist_ok=True)
        for file in folder.glob("*.tf*"):
            if "tfstate" not in file.name:
                file.unlink()
        zipfile.ZipFile(io.BytesIO(base64.b64decode(job["_zip"]))).extractall(folder)
        details = job["jobOperationDetails"]
        plan = folder / f"plan-{details.get('executionPlanJobId') or job['id']}"
        command = {
            "PLAN": ["plan", f"-out={plan}"],
            "APPLY": ["apply", *([str(plan)] if details.get("executionPlanJobId") else ["-auto-approve"])],
            "DESTROY": ["destroy", "-auto-approve"],
        }[job["operation"]]
        verb, *options = command
        code = self._terraform(folder, job, verb, "-input=false", "-no-color", *options)
        if code == 0 and verb == "plan":
            shown = subprocess.run(
                [self.terraform / "terraform", "show", "-json", plan],
                cwd=folder,
                env=self._environment(job),
                capture_output=True,
                check=True,
            )
            job["_plan"] = shown.stdout
        if code:
            job["failureDetails"] = {"code": "TERRAFORM_EXECUTION_ERROR", "message": "Terraform ended with an error"}
        self._become(job, "FAILED" if code else "SUCCEEDED")

    def _terraform(self, folder: Path, job: Json, *arguments: str) -> int:
        process = subprocess.Popen(
            [self.terraform / "terraform", *arguments],
            cwd=folder,
            env=self._environment(job),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        with process:
            for line in process.stdout:
                if line.strip():
                    entry = {"type": "TERRAFORM_CONSOLE", "level": "INFO", "timestamp": now(), "message": line.rstrip()}
                    job["_log"].append(entry)
                    self.tenancy.job_news.set()
        return process.returncode

    def _environment(self, job: Json) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("TF_", "OCI_"))}
        given = {f"TF_VAR_{name}": value for name, value in job["variables"].items()}
        return {**kept, **given, "TF_REATTACH_PROVIDERS": self.reattach}

    def _become(self, job: Json, state: str) -> None:
        with self.tenancy.lock:
            job["lifecycleState"] = state
            if state not in RUNNING:
                job["timeFinished"] = now()
        self.tenancy.job_news.set()


@contextmanager
def running_jobs(tenancy: Tenancy, terraform: Path, folder: Path) -> Iterator[Runner]:
    from tests.cloud.provider import Provider  # needs the built Terraform's protocol

    folder.mkdir(parents=True, exist_ok=True)
    with Provider(tenancy, terraform / "tfplugin5.proto") as provider:
        tenancy.jobs = Runner(tenancy, terraform, folder, provider.reattach)
        yield tenancy.jobs
        for gate in tenancy.gates:
            gate.opened.set()
        for thread in tenancy.jobs.threads:
            thread.join()


def check_zip(body: Json) -> str:
    content = body["configSource"]["zipFileBase64Encoded"]
    try:
        names = zipfile.ZipFile(io.BytesIO(base64.b64decode(content))).namelist()
    except (ValueError, zipfile.BadZipFile) as error:
        raise Refused(400, "InvalidParameter", f"The zip cannot be read: {error}") from error
    if not any(name.endswith(".tf") for name in names):
        raise Refused(400, "InvalidParameter", "The zip holds no .tf file in its working directory")
    return content


def check_variables(body: Json) -> None:
    for name, value in (body.get("variables") or {}).items():
        if not isinstance(value, str):
            raise Refused(400, "InvalidParameter", f"Variable {name} must be text")


def add(tenancy: Tenancy) -> None:
    tenancy.job_news = threading.Event()
    tenancy.jobs = None
    for kind in (STACK, JOB):
        tenancy.collection(kind.name)

    def create_stack() -> Json:
        body = dict(bottle.request.json)
        check_variables(body)
        if body.get("terraformVersion") != "1.5.x":
            raise Refused(400, "InvalidParameter", f"Terraform version {body.get('terraformVersion')} is not supported")
        content = check_zip(body)
        source = {name: value for name, value in body.pop("configSource").items() if name != "zipFileBase64Encoded"}
        return tenancy.show(tenancy.put(STACK, {**body, "configSource": source, "_zip": content}))

    def update_stack(ocid: str) -> Json:
        stack, body = tenancy.find("stacks", ocid), dict(bottle.request.json)
        tenancy.check_match(stack)
        check_variables(body)
        check_idle(stack)
        if body.get("configSource"):
            stack["_zip"] = check_zip(body)
        given = {name: value for name, value in body.items() if value is not None and name != "configSource"}
        stack.update(given)
        tenancy.touch(stack)
        return tenancy.show(stack)

    def check_idle(stack: Json) -> None:
        busy = [
            job["id"]
            for job in tenancy.collection("jobs").values()
            if job["stackId"] == stack["id"] and job["lifecycleState"] in RUNNING
        ]
        if busy:
            raise Refused(409, "Conflict", f"Stack {stack['id']} has a job in progress: {busy[0]}")

    def delete_stack(ocid: str) -> None:
        check_idle(tenancy.find("stacks", ocid))
        tenancy.delete(STACK, ocid)

    def create_job() -> Json:
        body = bottle.request.json
        stack, details = tenancy.find("stacks", body["stackId"]), body["jobOperationDetails"]
        check_idle(stack)
        plan = details.get("executionPlanJobId")
        if details["operation"] == "APPLY" and details["executionPlanStrategy"] == "FROM_PLAN_JOB_ID":
            tenancy.find("jobs", plan)
        source = tenancy.find("jobs", plan) if plan else stack
        job = tenancy.put(
            JOB,
            {
                "stackId": stack["id"],
                "compartmentId": stack["compartmentId"],
                "displayName": body.get("displayName"),
                "operation": details["operation"],
                "jobOperationDetails": details,
                "lifecycleState": "ACCEPTED",
                "variables": dict(source["variables"]),
                "_zip": source["_zip"],
            },
        )
        job["_log"] = []
        tenancy.jobs.start(stack, job)
        return tenancy.show(job)

    def state(ocid: str) -> bytes:
        stack = tenancy.find("stacks", ocid)
        file = tenancy.jobs.place(stack) / "terraform.tfstate" if tenancy.jobs else Path("/nonexistent")
        if not file.exists():
            raise Refused(404, "NotAuthorizedOrNotFound", "The stack has no state")
        return file.read_bytes()

    def plan_of(ocid: str) -> bytes:
        job = tenancy.find("jobs", ocid)
        if bottle.request.query.get("tfPlanFormat") != "JSON" or "_plan" not in job:
            raise Refused(404, "NotAuthorizedOrNotFound", "The job has no such plan")
        return job["_plan"]

    def list_jobs() -> list[Json]:
        wanted = bottle.request.query.get("stackId")
        return [job for job in tenancy.collection("jobs").values() if wanted in (None, job["stackId"])]

    stacks, jobs = f"/{VERSION}/stacks", f"/{VERSION}/jobs"
    tenancy.route("POST", stacks, create_stack)
    tenancy.route("GET", stacks, lambda: [tenancy.look(stack) for stack in tenancy.collection("stacks").values()])
    tenancy.route("GET", f"{stacks}/<ocid>", lambda ocid: tenancy.show(tenancy.look(tenancy.find("stacks", ocid))))
    tenancy.route("PUT", f"{stacks}/<ocid>", update_stack)
    tenancy.route("DELETE", f"{stacks}/<ocid>", delete_stack)
    tenancy.route("GET", f"{stacks}/<ocid>/tfState", state)
    tenancy.route(
        "GET", f"{stacks}/<ocid>/tfConfig", lambda ocid: base64.b64decode(tenancy.find("stacks", ocid)["_zip"])
    )
    tenancy.route("POST", jobs, create_job)
    tenancy.route("GET", jobs, list_jobs)
    tenancy.route("GET", f"{jobs}/<ocid>", lambda ocid: tenancy.show(tenancy.find("jobs", ocid)))
    tenancy.route("GET", f"{jobs}/<ocid>/logs", lambda ocid: list(tenancy.find("jobs", ocid)["_log"]))
    tenancy.route("GET", f"{jobs}/<ocid>/tfPlan", plan_of)
