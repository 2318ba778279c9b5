"""`make destroy` against the loopback Resource Manager: all of it goes, after consent."""

from __future__ import annotations

import pytest

from scripts.problem import Problem
from tests.cloud.deployer import Deployer
from tests.cloud.tenancy import Fault

MADE = ("instances", "instancePools", "instanceConfigurations", "loadBalancers", "subnets", "vcns", "stacks")
IN_USE = (409, "Conflict", "being updated")


def left(deployer: Deployer) -> list[str]:
    return [kind for kind in MADE if deployer.tenancy.live(kind)]


def test_deployment_is_shown_and_goes_with_its_stack(deployer: Deployer, capsys) -> None:
    deployer.deploy("--yes")
    capsys.readouterr()
    deployer.type("yes")
    assert deployer.destroy() == 0
    assert left(deployer) == []
    shown = capsys.readouterr().err
    assert "  - oci_core_instance_pool.nodes\n" in shown
    assert '  - oci_core_network_security_group_security_rule.clients["0.0.0.0/0:443"]\n' in shown
    assert "Destroy complete!" in shown
    assert [image["displayName"] for image in deployer.tenancy.live("images")] == ["llamakiln-demo-0.1.0"]


def test_nothing_there_is_no_error(deployer: Deployer, capsys) -> None:
    assert deployer.destroy() == 0
    assert "nothing to destroy" in capsys.readouterr().err
    assert deployer.changes() == []


def test_what_is_not_agreed_to_stays(deployer: Deployer) -> None:
    deployer.deploy("--yes")
    deployer.type("no")
    assert deployer.destroy() == 1
    deployer.type("")
    with pytest.raises(Problem, match="no terminal to ask on"):
        deployer.destroy()
    assert deployer.jobs("DESTROY") == []
    assert set(left(deployer)) == set(MADE)


def test_stack_that_was_only_planned_goes_without_a_job(deployer: Deployer) -> None:
    deployer.deploy("--dry-run")
    deployer.destroy("--yes")
    assert deployer.jobs("DESTROY") == []
    assert left(deployer) == []


def test_destroy_that_failed_is_told_and_the_next_one_finishes(deployer: Deployer) -> None:
    deployer.deploy("--yes")
    deployer.tenancy.faults.append(Fault(r"DELETE .*/loadBalancers/[^/]+$", *IN_USE, times=6))
    with pytest.raises(Problem, match="being updated"):
        deployer.destroy("--yes")
    assert deployer.tenancy.live("stacks")
    deployer.destroy("--yes")
    assert left(deployer) == []


def test_ctrl_c_leaves_it_running_and_the_next_run_follows_it(deployer: Deployer) -> None:
    deployer.deploy("--yes")
    gate, press = deployer.hold(r"DELETE .*/loadBalancers/[^/]+$")
    with pytest.raises(KeyboardInterrupt):
        deployer.destroy("--yes", sleep=press)
    gate.opened.set()
    deployer.destroy("--yes")
    assert len(deployer.jobs("DESTROY")) == 1
    assert left(deployer) == []


def test_apply_that_is_running_is_waited_for(deployer: Deployer) -> None:
    gate, press = deployer.hold()
    with pytest.raises(KeyboardInterrupt):
        deployer.deploy("--yes", sleep=press)
    gate.opened.set()
    deployer.destroy("--yes")
    assert left(deployer) == []


@pytest.mark.parametrize("call", [r"POST .*/jobs$", r"DELETE .*/stacks/"], ids=["job", "stack"])
def test_missing_policy_is_named(deployer: Deployer, call: str) -> None:
    deployer.deploy("--yes")
    deployer.tenancy.faults.append(Fault(call, 404, "NotAuthorizedOrNotFound", "Authorization failed", times=9))
    with pytest.raises(Problem) as raised:
        deployer.destroy("--yes")
    assert "manage orm-family in compartment COMPARTMENT" in raised.value.way_out
