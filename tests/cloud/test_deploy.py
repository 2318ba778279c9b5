"""`make deploy` end to end: a zip in the loopback Resource Manager, real Terraform jobs, an applied tenancy."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from scripts.cloud import job as jobs
from scripts.problem import Problem
from tests.cloud.deployer import APPLYING, Deployer
from tests.cloud.services.compute import IMAGE
from tests.cloud.tenancy import COMPARTMENT, LOST, OUT_OF_CAPACITY, REGION, TOO_MANY, Fault

JOBS = r"POST .*/jobs$"
STACKS = r"POST .*/stacks$"


def fault(deployer: Deployer, *arguments: str) -> Problem:
    with pytest.raises(Problem) as raised:
        deployer.deploy(*arguments)
    return raised.value


def n_nodes(deployer: Deployer) -> int:
    return len(deployer.tenancy.live("instances"))


def second_image(deployer: Deployer) -> str:
    ocid = IMAGE + "2"
    images, shapes = deployer.tenancy.resources["images"], deployer.tenancy.resources["imageShapes"]
    images[ocid], shapes[ocid] = {**images[IMAGE], "id": ocid}, shapes[IMAGE]
    return ocid


def test_zip_becomes_a_stack_a_plan_and_a_deployment_that_answers(deployer: Deployer, capsys) -> None:
    deployer.type("yes")
    assert deployer.deploy() == 0
    stack = deployer.stack()
    assert stack["freeformTags"] == {"product": "llamakiln", "deployment": "llamakiln"}
    assert stack["terraformVersion"] == "1.5.x"
    wanted = {"region": REGION, "compartment_ocid": COMPARTMENT, "name": "llamakiln", "image_ocid": IMAGE}
    assert stack["variables"] == {**wanted, "image_source": "ocid"}
    assert [job["operation"] for job in deployer.jobs()] == ["PLAN", "APPLY"]
    assert n_nodes(deployer) == 2
    shown = capsys.readouterr()
    assert "  + oci_core_instance_pool.nodes\n" in shown.err
    assert re.search(r"\d+ to add, 0 to change, 0 to destroy\n", shown.err)
    assert "Apply complete!" in shown.err
    ((url, key, is_self_signed),) = deployer.asked
    assert (url, is_self_signed) == ("https://203.0.113.80", True)
    assert f"URL       {url}\n" in shown.out
    assert f"API key   {key[:8]}..." in shown.out
    assert key not in shown.out + shown.err
    assert "curl -kN https://203.0.113.80/generate" in shown.out
    assert "Cost      About $" in shown.out
    assert "Apply complete!" in (deployer.build / "logs/deploy-apply.log").read_text()


def test_second_run_changes_nothing(deployer: Deployer, capsys) -> None:
    deployer.deploy("--yes")
    deployer.deploy()
    assert deployer.changes() == ["POST /20180917/jobs"]  # the plan
    assert len(deployer.jobs("APPLY")) == 1
    assert "nothing to change" in capsys.readouterr().err
    assert len(deployer.asked) == 2


@pytest.mark.parametrize("answer", ["no", "y"])
def test_plan_that_is_not_agreed_to_changes_nothing(deployer: Deployer, answer: str, capsys) -> None:
    deployer.type(answer)
    assert deployer.deploy() == 1
    assert deployer.jobs("APPLY") == []
    assert (n_nodes(deployer), deployer.tenancy.live("vcns"), deployer.asked) == (0, [], [])
    assert "nothing was applied" in capsys.readouterr().err


def test_without_a_terminal_there_is_no_apply(deployer: Deployer) -> None:
    problem = fault(deployer)
    assert "There is no terminal to ask on" in problem.message
    assert "YES=1" in problem.way_out
    assert deployer.jobs("APPLY") == []


def test_dry_run_only_plans(deployer: Deployer) -> None:
    assert deployer.deploy("--dry-run") == 0
    assert [job["operation"] for job in deployer.jobs()] == ["PLAN"]
    assert deployer.tenancy.live("vcns") == []


def test_variables_of_the_file_reach_terraform_and_stay(deployer: Deployer, capsys) -> None:
    deployer.deploy("--yes", deployer.variables(pool_size=3, https="off", client_cidrs=["198.51.100.0/24"]))
    assert n_nodes(deployer) == 3
    assert deployer.asked[0][0] == "http://203.0.113.80"
    assert deployer.asked[0][2] is False
    variables = deployer.stack()["variables"]
    assert (variables["pool_size"], variables["client_cidrs"]) == ("3", '["198.51.100.0/24"]')
    capsys.readouterr()
    deployer.deploy("--yes", deployer.variables(pool_size=None))
    shown = capsys.readouterr().err
    assert "changed pool_size" in shown
    assert "  ~ oci_core_instance_pool.nodes\n" in shown
    assert (n_nodes(deployer), deployer.stack()["variables"]["https"]) == (2, "off")


def test_name_of_ones_own_is_told_where_to_lead(deployer: Deployer, capsys) -> None:
    deployer.deploy("--yes", deployer.variables(host_name="llm.example.com"))
    assert "llm.example.com must lead to 203.0.113.80" in capsys.readouterr().err
    assert deployer.asked[0][0] == "https://llm.example.com"


def test_new_image_is_planned_as_a_new_configuration(deployer: Deployer, capsys) -> None:
    deployer.deploy("--yes")
    deployer.publish(second_image(deployer))
    deployer.deploy("--yes")
    shown = capsys.readouterr().err
    assert "+/- oci_core_instance_configuration.node\n" in shown
    assert "to replace those that run: make rollout" in shown
    assert deployer.stack()["variables"]["image_ocid"] == IMAGE + "2"


def test_changed_files_reach_the_stack(deployer: Deployer, capsys) -> None:
    deployer.deploy("--dry-run")
    right = deployer.stack()["_zip"]
    deployer.stack()["_zip"] = base64.b64encode(base64.b64decode(right)[:-1]).decode()
    deployer.deploy("--dry-run")
    assert "changed its files" in capsys.readouterr().err
    assert deployer.stack()["_zip"] == right


def test_full_region_is_told_and_the_next_run_goes_on(deployer: Deployer) -> None:
    deployer.tenancy.faults.append(Fault(r"POST .*/instancePools$", *OUT_OF_CAPACITY))
    problem = fault(deployer, "--yes")
    assert "APPLY job" in problem.message
    assert "Out of host capacity" in problem.message
    assert "the next apply goes on" in problem.way_out
    (balancer,) = deployer.tenancy.live("loadBalancers")
    deployer.deploy("--yes")
    assert n_nodes(deployer) == 2
    assert deployer.tenancy.live("loadBalancers") == [balancer]


def test_ctrl_c_leaves_the_apply_running_and_the_next_run_follows_it(deployer: Deployer, capsys) -> None:
    gate, press = deployer.hold()
    with pytest.raises(KeyboardInterrupt):
        deployer.deploy("--yes", sleep=press)
    (apply,) = deployer.jobs("APPLY")
    assert f"the APPLY job {apply['id']} goes on in Oracle Cloud" in capsys.readouterr().err
    assert apply["lifecycleState"] == "IN_PROGRESS"
    gate.opened.set()
    deployer.deploy()
    assert deployer.jobs("APPLY") == [apply]
    assert n_nodes(deployer) == 2
    assert f"job {apply['id']} is running (APPLY): following it" in capsys.readouterr().err


def test_plan_that_is_running_is_waited_for(deployer: Deployer) -> None:
    gate, press = deployer.hold(r"GET .*/availabilityDomains$")
    with pytest.raises(KeyboardInterrupt):
        deployer.deploy(sleep=press)
    gate.opened.set()
    deployer.deploy("--yes")
    assert [job["operation"] for job in deployer.jobs()] == ["PLAN", "PLAN", "APPLY"]
    assert n_nodes(deployer) == 2


def test_apply_that_failed_while_nobody_looked_is_told(deployer: Deployer) -> None:
    gate, press = deployer.hold()
    with pytest.raises(KeyboardInterrupt):
        deployer.deploy("--yes", sleep=press)
    deployer.tenancy.faults.append(Fault(APPLYING, *OUT_OF_CAPACITY))
    deployer.tenancy.faults.append(Fault(r"POST .*/instancePools$", *OUT_OF_CAPACITY))
    gate.opened.set()
    assert "Out of host capacity" in fault(deployer).message


def test_deploying_during_a_destroy_is_refused(deployer: Deployer) -> None:
    deployer.deploy("--yes")
    gate, press = deployer.hold(r"DELETE .*/loadBalancers/[^/]+$")
    with pytest.raises(KeyboardInterrupt):
        deployer.destroy("--yes", sleep=press)
    assert "is being destroyed" in fault(deployer, "--yes").message
    gate.opened.set()


def test_each_line_of_a_log_is_shown_once_whatever_its_pages(deployer: Deployer, capsys) -> None:
    deployer.tenancy.page_size = 3
    deployer.deploy("--dry-run")
    shown = [line.partition("]   ")[2] for line in capsys.readouterr().err.splitlines()]
    wanted = [entry["message"] for entry in deployer.jobs()[0]["_log"]]
    assert len(wanted) > 9
    assert [line for line in shown if line in wanted] == wanted


@pytest.mark.parametrize("call", [STACKS, JOBS], ids=["stack", "job"])
@pytest.mark.parametrize("what", [TOO_MANY, LOST], ids=["429", "answer lost"])
def test_passing_fault_makes_no_second_one(deployer: Deployer, call: str, what) -> None:
    deployer.tenancy.faults.append(Fault(call, *what))
    deployer.deploy("--dry-run")
    assert len(deployer.tenancy.live("stacks")) == len(deployer.jobs()) == 1


@pytest.mark.parametrize("call", [r"GET .*/stacks$", STACKS, JOBS, r"GET .*/logs$", r"GET .*/tfPlan$"])
def test_missing_policy_is_named(deployer: Deployer, call: str) -> None:
    deployer.tenancy.faults.append(Fault(call, 404, "NotAuthorizedOrNotFound", "Authorization failed", times=9))
    assert "`Allow group GROUP to manage orm-family in compartment COMPARTMENT`" in fault(deployer).way_out


def test_plan_that_fails_says_why(deployer: Deployer) -> None:
    deployer.tenancy.resources["imageShapes"][IMAGE].clear()
    problem = fault(deployer)
    assert "PLAN job" in problem.message
    assert "The image does not allow VM.Standard.A2.Flex" in re.sub(r"\s+│?\s*", " ", problem.message)


def test_stack_of_this_name_that_is_not_ours_is_left_alone(deployer: Deployer) -> None:
    deployer.deploy("--dry-run")
    deployer.stack()["freeformTags"] = {}
    problem = fault(deployer)
    assert "but this did not make it" in problem.message
    assert deployer.changes() == []


def test_two_stacks_of_one_deployment_are_told(deployer: Deployer) -> None:
    deployer.deploy("--dry-run")
    twin = {**deployer.stack(), "id": "ocid1.ormstack.oc1..twin"}
    deployer.tenancy.resources["stacks"][twin["id"]] = twin
    assert "2 stacks are tagged deployment=llamakiln" in fault(deployer).message


def test_two_names_are_two_deployments(deployer: Deployer) -> None:
    deployer.deploy("--dry-run")
    deployer.deploy("--dry-run", "--name=second")
    assert [stack["variables"]["name"] for stack in deployer.tenancy.live("stacks")] == ["llamakiln", "second"]


def test_image_is_the_one_named_else_the_published_one_of_this_region_else_the_stacks(deployer: Deployer) -> None:
    (deployer.build / "image-oci.json").unlink()
    assert "no image is chosen" in fault(deployer).message
    deployer.publish(region="us-ashburn-1")
    assert "no image is chosen" in fault(deployer).message
    deployer.deploy("--dry-run", f"--image={IMAGE}")
    deployer.deploy("--dry-run")
    assert deployer.stack()["variables"]["image_ocid"] == IMAGE
    deployer.publish(second_image(deployer))
    deployer.deploy("--dry-run", f"--image={IMAGE}")
    assert deployer.stack()["variables"]["image_ocid"] == IMAGE


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"pool": 3, "name": "x"}', "unknown variable pool; name comes from COMPARTMENT, NAME or your profile"),
        ("[]", "must be an object"),
        ("{", "Expecting property name"),
    ],
    ids=["names", "no object", "no JSON"],
)
def test_file_of_variables_is_checked_before_the_cloud_is_asked(deployer, content: str, message: str) -> None:
    (deployer.folder / "vars.json").write_text(content)
    assert message in fault(deployer, f"--vars={deployer.folder}/vars.json").message
    assert deployer.tenancy.calls == []


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ("Error: 500-InternalError, Out of host capacity.", "another shape"),
        ("Error: 400-LimitExceeded, standard-a2-core-count", "Governance > Limits"),
        ("Error: 400-QuotaExceeded, x", "compartment's quota"),
        ("Error: 404-NotAuthorizedOrNotFound, Authorization failed", "manage load-balancers in compartment"),
        ("Error: 429-TooManyRequests, slow down", "in a minute"),
        ("Error: something else", "correct what the log names"),
    ],
)
def test_failed_job_says_what_helps(line: str, advice: str) -> None:
    job = SimpleNamespace(id="j", operation="APPLY", lifecycle_state="FAILED", failure_details=None)
    problem = jobs.failure(job, ["Creating...", line, "  on network.tf"], Path("x.log"))
    assert "Creating" not in problem.message
    assert f"    {line}\n      on network.tf" in problem.message
    assert advice in problem.way_out


def test_outputs_only_are_a_change_too() -> None:
    plan = {"resource_changes": [], "output_changes": {"url": {"actions": ["update"]}}}
    assert jobs.summarise(plan) == ["no resource changes; outputs do"]
    assert jobs.summarise(json.loads('{"output_changes": {"url": {"actions": ["no-op"]}}}')) == []
