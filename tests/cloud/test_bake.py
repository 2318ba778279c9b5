"""The OCI bake against a tenancy on loopback: what it checks, what it makes, what it says when something is wrong.

Packer is a double that makes the image in that tenancy; tests/packer validates the real template with a real Packer.
"""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from scripts.cloud import bake as command
from scripts.cloud import packer as packers
from scripts.cloud.image import POLL_S, find_image, wait_until_usable
from scripts.cloud.session import open_session
from scripts.files import REPOSITORY
from scripts.models.catalog import load_catalog
from scripts.problem import Problem
from tests.cloud.bakery import BASE_IMAGE, BASE_IMAGE_NAME, GROUP, SUBNET, furnish
from tests.cloud.person import settle_in, write_key
from tests.cloud.services.compute import A1, A2, put_instance
from tests.cloud.services.identity import DOMAINS, put_compartment
from tests.cloud.services.network import ssh_rule
from tests.cloud.tenancy import COMPARTMENT, USER, Tenancy

GATEWAY = "ocid1.natgateway.oc1..1"
DOMAIN = DOMAINS[0]
MODEL = next(iter(load_catalog()))
NAME = f"llamakiln-{MODEL}-{command.read_pins()['LLAMAKILN_VERSION']}-arm64"
PERSON = {
    "compartment_ocid": COMPARTMENT,
    "availability_domain": DOMAIN,
    "subnet_ocid": SUBNET,
}


class Bake:
    """One person's machine: credentials, a pkrvars file, a stage, and `bake()` to run the script there."""

    def __init__(self, folder: Path, tenancy: Tenancy, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.tenancy = tenancy
        self.environ = monkeypatch
        self.report = folder / "build/image-oci.json"
        self.write_variables()
        self.key = "0123456789abcdef"
        packer = folder / "packer"
        packer.write_text(f'#!/bin/sh\nexec {sys.executable} {REPOSITORY}/tests/cloud/packer_double.py "$@"\n')
        packer.chmod(0o755)
        settle_in(monkeypatch, tenancy, folder)
        monkeypatch.setenv("PACKER", str(packer))

    def write_variables(self, **changes: object) -> None:
        values = {**PERSON, **changes}
        lines = [f"{name} = {json.dumps(value)}\n" for name, value in values.items() if value is not None]
        (self.folder / "my.pkrvars.hcl").write_text("".join(lines))

    def __call__(self, *arguments: str, packer: str = "") -> None:
        self.environ.setenv("PACKER_DOUBLE", packer)
        contents = command.Contents(self.key, lambda path: path.write_bytes(b"contents"))
        paths = [f"--model={MODEL}", f"--var-file={self.folder}/my.pkrvars.hcl", f"--build={self.folder}/build"]
        command.main([*paths, *arguments], prepare=lambda model_name, stages: contents)

    def images(self) -> list[dict]:
        """The images that we made."""
        return [image for image in self.tenancy.live("images") if image["displayName"] == NAME]


@pytest.fixture
def tenancy():
    with Tenancy() as running:
        furnish(running)
        yield running


@pytest.fixture
def bake(tmp_path, tenancy, monkeypatch) -> Bake:
    return Bake(tmp_path, tenancy, monkeypatch)


def fault(bake: Bake, *arguments: str, packer: str = "") -> Problem:
    """What the person is told when the bake must not succeed."""
    with pytest.raises(Problem) as raised:
        bake(*arguments, packer=packer)
    return raised.value


def test_bake_makes_one_image_for_both_shapes_and_writes_it_down(bake, tenancy):
    bake()
    (image,) = bake.images()
    assert set(tenancy.resources["imageShapes"][image["id"]]) == {A1, A2}
    report = json.loads(bake.report.read_text())
    assert report["image_ocid"] == image["id"]
    assert report["image_name"] == image["displayName"] == NAME
    assert report["shapes"] == [A2, A1]
    assert report["base_image"]["name"] == BASE_IMAGE_NAME
    assert (report["how"], report["packer"], report["bake"]) == ("baked", "1.10.0", bake.key)
    assert [stage["name"] for stage in report["stages"]][-2:] == ["image: Packer", "image: shapes"]


def test_packer_output_goes_to_the_log_and_its_steps_to_the_screen(bake, capsys):
    bake()
    assert "output will be in this color" in (bake.folder / "build/logs/packer-oci.log").read_text()
    shown = capsys.readouterr().err
    assert re.search(r"  \d:\d\d Creating instance\.\.\.", shown)
    assert "output will be in this color" not in shown


def test_second_bake_finds_the_image_and_changes_nothing(bake, tenancy):
    bake()
    tenancy.calls.clear()
    bake()
    assert len(bake.images()) == 1
    assert not [call for call in tenancy.calls if not call.startswith("GET ")]
    assert json.loads(bake.report.read_text())["how"] == "found"


def test_dry_run_checks_everything_and_launches_nothing(bake, tenancy, capsys):
    bake("--dry-run")
    assert not [call for call in tenancy.calls if not call.startswith("GET ")]
    assert not bake.report.exists()
    assert "nothing was launched" in capsys.readouterr().err


def test_image_is_found_when_packer_fails_after_making_it(bake, tenancy, capsys):
    bake(packer="fails after image")
    (image,) = bake.images()
    assert set(tenancy.resources["imageShapes"][image["id"]]) == {A1, A2}
    assert json.loads(bake.report.read_text())["how"] == "found"
    shown = capsys.readouterr().err
    assert "Error updating image schema" in shown
    assert "compute-image-capability-schema in tenancy" in shown


def test_packer_that_fails_before_the_image_shows_its_last_lines_and_the_policy(bake):
    problem = fault(bake, packer="fails before image")
    assert "packer build ended with 1 and made no image" in problem.message
    assert "build/logs/packer-oci.log" in problem.message
    assert "manage instance-family in compartment" in problem.way_out
    assert "Problem creating instance" in problem.message
    assert not bake.report.exists()


def test_failed_bake_names_the_instance_that_still_costs_money(bake, tenancy):
    for ocid, state in (("ocid1.instance.oc1..left", "RUNNING"), ("ocid1.instance.oc1..gone", "TERMINATED")):
        put_instance(tenancy, ocid, BASE_IMAGE, state, displayName=f"{NAME}-bake")
    problem = fault(bake, packer="fails before image")
    assert "terminate --instance-id ocid1.instance.oc1..left" in problem.way_out
    assert "ocid1.instance.oc1..gone" not in problem.way_out


def test_packer_that_succeeds_without_an_image_is_not_believed(bake):
    assert f"has no image {NAME}" in fault(bake, packer="makes nothing").message


def test_name_taken_by_other_content_is_not_baked_over(bake):
    bake()
    bake.key = "fedcba9876543210"
    problem = fault(bake)
    assert "baked from other content" in problem.message
    assert "raise LLAMAKILN_VERSION" in problem.way_out
    assert len(bake.images()) == 1


def test_image_still_being_made_is_waited_for(bake, tenancy):
    bake()
    (image,) = bake.images()
    tenancy.looks = 2  # the first of them finds it
    tenancy.settle(image, "PROVISIONING", "AVAILABLE")
    session = open_session({k: command.os.environ[k] for k in ("OCI_CONFIG_FILE", "LLAMAKILN_OCI_ENDPOINT")})
    found = find_image(session, COMPARTMENT, image["displayName"], bake.key)
    slept = []
    ready = wait_until_usable(session, found, lambda message: None, sleep=slept.append)
    assert found.lifecycle_state == "PROVISIONING"
    assert ready.lifecycle_state == "AVAILABLE"
    assert slept == [POLL_S] * 2


def test_image_that_ends_badly_is_said(bake, tenancy):
    bake()
    session = open_session(command.os.environ)
    (image,) = bake.images()
    broken = session.compute.get_image(image["id"]).data
    broken.lifecycle_state = "DISABLED"
    with pytest.raises(Problem, match="became DISABLED"):
        wait_until_usable(session, broken, lambda message: None)


def test_wrong_key_ends_it_at_the_first_call(bake, tenancy):
    write_key(bake.folder / "key.pem", rsa.generate_private_key(public_exponent=65537, key_size=2048))
    problem = fault(bake)
    assert "does not accept the credentials" in problem.message
    assert "API keys" in problem.way_out
    assert len(tenancy.calls) == 1


def test_every_fault_is_told_at_once(bake, tenancy):
    tenancy.resources["limits"]["standard-a2-core-count"]["available"] = 1
    rules(tenancy.resources)["ingressSecurityRules"] = []
    problem = fault(bake)
    assert "lets TCP port 22 in" in problem.message
    assert "limit standard-a2-core-count leaves 1 (4 in use)" in problem.message


def subnet(resources: dict) -> dict:
    return resources["subnets"][SUBNET]


def routes(resources: dict) -> dict:
    return resources["routeTables"][subnet(resources)["routeTableId"]]


def rules(resources: dict) -> dict:
    (name,) = subnet(resources)["securityListIds"]
    return resources["securityLists"][name]


FAULTS = {
    "no compartment": (
        lambda r: r["compartments"].clear(),
        {},
        f"compartment_ocid={COMPARTMENT}: not there, or not yours",
        "inspect compartments in tenancy",
    ),
    "compartment being deleted": (
        lambda r: r["compartments"][COMPARTMENT].update(lifecycleState="DELETED"),
        {},
        "stack is DELETED",
        "active",
    ),
    "no subnet": (
        lambda r: r["subnets"].clear(),
        {},
        f"subnet_ocid={SUBNET}: not there, or not yours",
        "use virtual-network-family in compartment",
    ),
    "subnet of another domain": (
        lambda r: subnet(r).update(availabilityDomain="Test:EU-FRANKFURT-1-AD-2"),
        {},
        "public is in Test:EU-FRANKFURT-1-AD-2",
        "regional subnet",
    ),
    "private subnet": (
        lambda r: subnet(r).update(prohibitPublicIpOnVnic=True),
        {},
        "allows no public address",
        "use_private_ip = true",
    ),
    "no way out": (lambda r: routes(r).update(routeRules=[]), {}, "no rule for 0.0.0.0/0", "internet gateway"),
    "only a NAT gateway": (
        lambda r: routes(r)["routeRules"][0].update(networkEntityId=GATEWAY),
        {},
        "not an internet gateway",
        "use_private_ip = true",
    ),
    "port 22 closed": (
        lambda r: rules(r).update(ingressSecurityRules=[ssh_rule(80, 443)]),
        {},
        "lets TCP port 22 in",
        "ingress rule",
    ),
    "no such group": (lambda r: None, {"nsg_ocids": ["ocid1.nsg.x"]}, "nsg_ocids=ocid1.nsg.x: not there", "OCID"),
    "shape not offered": (
        lambda r: r["shapes"][DOMAIN].pop(A2),
        {},
        f"shape={A2}: not offered in {DOMAIN}",
        f'shape = "{A1}"',
    ),
    "too many OCPUs": (
        lambda r: r["shapes"][DOMAIN][A2]["ocpuOptions"].update(max=1.0),
        {},
        f"ocpus=2: {A2} takes from 1 to 1",
        "set ocpus",
    ),
    "no cores left": (
        lambda r: r["limits"]["standard-a2-core-count"].update(available=1),
        {},
        "leaves 1 (4 in use)",
        f'shape = "{A1}"',
    ),
    "no memory left": (
        lambda r: r["limits"]["standard-a1-memory-count"].update(available=8),
        {"shape": A1},
        "memory_gb=16: limit standard-a1-memory-count leaves 8",
        f'shape = "{A2}"',
    ),
    "no base image": (
        lambda r: r["images"][BASE_IMAGE].update(displayName="Canonical-Ubuntu-22.04-Minimal-aarch64-2026"),
        {},
        "no Ubuntu 22.04 aarch64 image",
        "another shape",
    ),
    "wrong domain": (
        lambda r: None,
        {"availability_domain": "Test:US-ASHBURN-AD-1"},
        f"availability_domain=Test:US-ASHBURN-AD-1: region eu-frankfurt-1 has {', '.join(reversed(DOMAINS))}",
        "region",
    ),
}


@pytest.mark.parametrize(("bend", "changes", "message", "way_out"), FAULTS.values(), ids=FAULTS.keys())
def test_fault_of_the_account_is_named_before_anything_is_launched(bake, tenancy, bend, changes, message, way_out):
    bend(tenancy.resources)
    bake.write_variables(**changes)
    problem = fault(bake)
    assert message in problem.message
    assert way_out in problem.way_out
    assert not [call for call in tenancy.calls if not call.startswith("GET ")]


def test_private_bake_needs_only_a_nat_gateway(bake, tenancy):
    subnet(tenancy.resources).update(prohibitPublicIpOnVnic=True)
    routes(tenancy.resources)["routeRules"][0].update(networkEntityId=GATEWAY)
    bake.write_variables(use_private_ip=True)
    bake("--dry-run")


def test_ssh_rule_may_be_in_a_network_security_group(bake, tenancy):
    rules(tenancy.resources).update(ingressSecurityRules=[])
    bake.write_variables(nsg_ocids=[GROUP])
    bake("--dry-run")


@pytest.mark.parametrize(
    "rule",
    [
        {"protocol": "all", "source": "0.0.0.0/0"},
        {"protocol": "6", "source": "0.0.0.0/0"},
        ssh_rule(1, 65535),
    ],
    ids=["every protocol", "every port", "a range"],
)
def test_broader_rules_let_ssh_in_too(bake, tenancy, rule):
    rules(tenancy.resources).update(ingressSecurityRules=[rule])
    bake("--dry-run")


def test_quota_that_cannot_be_read_is_said_and_passed_over(bake, tenancy, capsys):
    tenancy.resources["limits"].clear()
    bake("--dry-run")
    shown = capsys.readouterr().err
    assert "quota: not known (limit standard-a2-core-count" in shown
    assert "read resource-availability in tenancy" in shown


def test_image_may_go_to_a_compartment_of_its_own(bake, tenancy):
    images = "ocid1.compartment.oc1..images"
    put_compartment(tenancy, images, "images")
    bake.write_variables(image_compartment_ocid=images)
    bake()
    assert json.loads(bake.report.read_text())["compartment_ocid"] == images


@pytest.mark.parametrize(
    ("packer", "message"),
    [
        ("old", "is Packer 1.6.6; baking in OCI needs 1.10.0 or newer"),
        ("no plugin", "oracle plugin is neither installed nor could it be downloaded"),
        ("invalid", "packer validate: Error: Invalid value for variable The ocpus value must be from 1 to 76."),
    ],
)
def test_packer_that_cannot_bake_is_told_before_anything_is_launched(bake, tenancy, packer, message):
    assert message in fault(bake, packer=packer).message
    assert not [call for call in tenancy.calls if not call.startswith("GET ")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"subnet_ocid": None}, "subnet_ocid is missing"),
        ({"subnet": "x"}, "unknown variable subnet"),
        ({"model": "demo"}, "unknown variable model"),
    ],
    ids=["missing", "misspelled", "ours, not theirs"],
)
def test_variables_are_checked_by_name(bake, tenancy, changes, message):
    bake.write_variables(**changes)
    assert message in fault(bake).message
    assert tenancy.calls == []


def test_missing_variables_file_says_how_to_make_it(bake):
    (bake.folder / "my.pkrvars.hcl").unlink()
    assert "cp packer/oci/example.pkrvars.hcl" in fault(bake).way_out


def test_file_that_is_not_hcl_is_named(bake):
    (bake.folder / "my.pkrvars.hcl").write_text("compartment_ocid = = 1\n")
    assert "my.pkrvars.hcl is not HCL" in fault(bake).message


def test_unknown_model_is_told_before_the_cloud_is_asked(bake, tenancy):
    assert "nonesuch" in fault(bake, "--model=nonesuch").message
    assert tenancy.calls == []


def test_missing_credentials_say_how_to_make_them(bake):
    bake.environ.setenv("OCI_CONFIG_FILE", str(bake.folder / "nowhere"))
    problem = fault(bake)
    assert "nowhere does not exist" in problem.message
    assert "oci setup config" in problem.way_out


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (f"user={USER}\n", "", "user is missing"),
        ("[DEFAULT]", "[OTHER]", "tenancy is missing"),
        ("key.pem", "lost.pem", "lost.pem"),
        ("[DEFAULT]", "[DEFAULT]\nsecurity_token_file=/x", "session of an hour"),
    ],
    ids=["no user", "no profile", "no key", "session token"],
)
def test_faulty_credentials_file_is_told_by_its_fault(bake, old, new, message):
    config = bake.folder / "config"
    config.write_text(config.read_text().replace(old, new))
    assert message in fault(bake).message


def test_profile_of_the_oci_command_line_is_honoured(bake):
    config = bake.folder / "config"
    config.write_text(config.read_text().replace("[DEFAULT]", "[bakery]"))
    bake.environ.setenv("OCI_CLI_PROFILE", "bakery")
    bake("--dry-run")


def test_profile_that_is_not_there_is_named(bake):
    bake.environ.setenv("OCI_CLI_PROFILE", "bakery")
    assert "Profile 'bakery' not found" in fault(bake).message


def test_unreachable_cloud_is_told_as_such(bake):
    bake.environ.setenv("LLAMAKILN_OCI_ENDPOINT", "http://127.0.0.1:9")  # nobody listens on the discard port
    assert "cannot be reached" in fault(bake).message


def test_interrupted_packer_is_read_to_its_end(tmp_path, monkeypatch):
    """Ctrl-C reaches Packer too; it then ends its instance, and what it says about that belongs in the log."""

    class Lines(io.StringIO):
        interrupted = False

        def __next__(self) -> str:
            if not self.interrupted:
                self.interrupted = True
                raise KeyboardInterrupt
            return super().__next__()

    class Process:
        returncode = 1
        stdout = Lines("==> oracle-oci.node: Terminating instance...\n")

        def __init__(self, *arguments: object, **options: object) -> None: ...

        def __enter__(self) -> Process:
            return self

        def __exit__(self, *exception: object) -> None: ...

    monkeypatch.setattr(packers.subprocess, "Popen", Process)
    with pytest.raises(KeyboardInterrupt):
        packers.build("packer", [], tmp_path / "log", lambda message: None)
    assert "Terminating instance" in (tmp_path / "log").read_text()
