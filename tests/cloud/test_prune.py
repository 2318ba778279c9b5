"""`make prune-images` against the loopback tenancy: old images go with their files, and none that anything uses."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from scripts.cloud import image_import
from scripts.cloud import prune as command
from scripts.problem import Problem
from tests.cloud.deployer import Deployer
from tests.cloud.person import Terminal, settle_in
from tests.cloud.services.compute import IMAGE, put_image, put_instance
from tests.cloud.services.compute_management import CONFIGURATION
from tests.cloud.services.identity import put_compartment
from tests.cloud.services.object_storage import put_bucket, put_object
from tests.cloud.services.resource_manager import STACK
from tests.cloud.tenancy import COMPARTMENT, TENANCY, TOO_MANY, Fault, Tenancy

OTHER = "ocid1.compartment.oc1..other"


class Prune:
    """A compartment with images, and `prune()` to run the script."""

    def __init__(self, folder: Path, tenancy: Tenancy) -> None:
        self.folder, self.tenancy = folder, tenancy
        tenancy.resources["images"].clear()
        put_bucket(tenancy, "llamakiln")

    def __call__(self, *arguments: str) -> int:
        self.tenancy.calls.clear()
        return command.main([f"--compartment={COMPARTMENT}", f"--build={self.folder}", "--keep=1", *arguments])

    def add(self, day: int, model: str = "demo", is_uploaded: bool = True, **changes: object) -> str:
        """An image made on this day of November; returns its name."""
        name, sha256 = f"{model}-{day}", f"{day:02d}" * 32
        tags = {"product": "llamakiln", "model": model, "version": "0.1.0"}
        if is_uploaded:
            tags["sha256"] = sha256
            file = image_import.object_name(f"llamakiln-{model}-0.1.0-arm64", sha256)
            put_object(self.tenancy, "llamakiln", file, b"x", timeCreated=self.day(day))
        said = {"freeformTags": tags, "timeCreated": self.day(day), **changes}
        put_image(self.tenancy, f"ocid1.image.oc1..{name}", **said)
        return name

    @staticmethod
    def day(day: int) -> str:
        return f"2026-11-{day:02d}T00:00:00Z"

    def left(self) -> list[str]:
        return sorted(image["displayName"] for image in self.tenancy.live("images"))

    def files(self) -> int:
        return len(self.tenancy.resources["objects"])


@pytest.fixture
def tenancy() -> Iterator[Tenancy]:
    with Tenancy() as running:
        yield running


@pytest.fixture
def prune(tmp_path: Path, tenancy: Tenancy, monkeypatch: pytest.MonkeyPatch) -> Prune:
    settle_in(monkeypatch, tenancy, tmp_path)
    return Prune(tmp_path, tenancy)


def test_newest_of_each_model_stay_and_the_others_go_with_their_files(prune: Prune, capsys) -> None:
    for day in (3, 1, 2, 4):
        prune.add(day)
    prune.add(1, model="tiny", is_uploaded=False)
    prune.add(2, model="tiny", is_uploaded=False)
    assert prune("--yes", "--keep=2") == 0
    assert prune.left() == ["demo-3", "demo-4", "tiny-1", "tiny-2"]
    assert prune.files() == 2
    shown = capsys.readouterr().err
    assert "demo-4, 2026-11-04, ocid1.image.oc1..demo-4: stays: one of the 2 newest" in shown
    assert "demo-1, 2026-11-01, ocid1.image.oc1..demo-1: goes and its file" in shown


def begin_upload(prune: Prune, name: str, begun: datetime) -> None:
    upload = {"namespace": "n", "bucket": "llamakiln", "object": name, "uploadId": name, "parts": {}}
    upload["timeCreated"] = begun.isoformat().replace("+00:00", "Z")
    prune.tenancy.resources["uploads"][name] = upload


def test_parts_that_nobody_went_on_with_go(prune: Prune, capsys) -> None:
    now = datetime.now(timezone.utc)
    begin_upload(prune, "llamakiln-demo-old.oci", now - timedelta(days=command.STALE_DAYS, minutes=1))
    begin_upload(prune, "llamakiln-demo-new.oci", now - timedelta(days=command.STALE_DAYS - 1))
    begin_upload(prune, "somebody-elses", now - timedelta(days=99))
    assert prune("--yes") == 0
    assert sorted(prune.tenancy.resources["uploads"]) == ["llamakiln-demo-new.oci", "somebody-elses"]
    assert "unfinished upload of llamakiln-demo-old.oci" in capsys.readouterr().err


def test_second_run_deletes_nothing(prune: Prune, capsys) -> None:
    for day in (1, 2):
        prune.add(day)
    prune("--yes")
    prune()
    assert not [call for call in prune.tenancy.calls if not call.startswith("GET")]
    assert "nothing to delete" in capsys.readouterr().err


def test_what_is_not_agreed_to_stays(prune: Prune, monkeypatch: pytest.MonkeyPatch) -> None:
    for day in (1, 2):
        prune.add(day)
    monkeypatch.setattr(sys, "stdin", Terminal("no\n"))
    assert prune() == 1
    monkeypatch.setattr(sys, "stdin", open("/dev/null"))  # noqa: SIM115  closed with the test's process
    with pytest.raises(Problem, match="Delete 1 of 2 images"):
        prune()
    assert prune.left() == ["demo-1", "demo-2"]
    monkeypatch.setattr(sys, "stdin", Terminal("yes\n"))
    assert prune() == 0
    assert prune.left() == ["demo-2"]


def use_by_instance(tenancy: Tenancy, image: str, compartment: str) -> str:
    put_instance(tenancy, "i", image, "STOPPED", displayName="node", compartmentId=compartment)
    return "instance node (i)"


def use_by_configuration(tenancy: Tenancy, image: str, compartment: str) -> str:
    launch = {"sourceDetails": {"sourceType": "image", "imageId": image}}
    details = {"instanceType": "compute", "launchDetails": launch}
    wanted = {"displayName": "old", "compartmentId": compartment, "instanceDetails": details}
    tenancy.put(CONFIGURATION, wanted, "c")
    return "instance configuration old (c)"


def add_stack(tenancy: Tenancy, compartment: str, **variables: str) -> str:
    stack = tenancy.put(STACK, {"displayName": "s", "compartmentId": compartment, "variables": variables})
    return f"stack s ({stack['id']})"


def use_by_stack(tenancy: Tenancy, image: str, compartment: str) -> str:
    return add_stack(tenancy, compartment, image_ocid=image)


def use_by_link(tenancy: Tenancy, image: str, compartment: str) -> str:
    file = f"llamakiln-demo-0.1.0-arm64-{'01' * 8}.oci"
    return add_stack(tenancy, compartment, image_url=f"https://objectstorage.example.com/p/x/n/n/b/llamakiln/o/{file}")


@pytest.mark.parametrize("compartment", [COMPARTMENT, OTHER, TENANCY], ids=["same", "other", "root"])
@pytest.mark.parametrize("use", [use_by_instance, use_by_configuration, use_by_stack, use_by_link])
def test_image_that_is_used_stays_and_is_said_why(prune: Prune, tenancy: Tenancy, use, compartment, capsys) -> None:
    put_compartment(tenancy, OTHER, "other", parent=COMPARTMENT)
    for day in (1, 2, 3):
        prune.add(day)
    user = use(tenancy, "ocid1.image.oc1..demo-1", compartment)
    prune("--yes")
    assert prune.left() == ["demo-1", "demo-3"]
    assert prune.files() == 2
    assert f"used by {user}" in capsys.readouterr().err


def test_image_of_an_instance_that_is_gone_may_go(prune: Prune, tenancy: Tenancy) -> None:
    for day in (1, 2):
        prune.add(day)
    use_by_instance(tenancy, "ocid1.image.oc1..demo-1", COMPARTMENT)
    tenancy.resources["instances"]["i"]["lifecycleState"] = "TERMINATED"
    prune("--yes")
    assert prune.left() == ["demo-2"]


@pytest.mark.parametrize(
    "changes",
    [
        {"lifecycleState": "IMPORTING"},
        {"freeformTags": {"product": "llamakiln", "deployment": "llamakiln"}},
        {"freeformTags": {"product": "other", "model": "demo"}},
        {"freeformTags": {}},
        {"compartmentId": OTHER},
    ],
    ids=["being made", "a stack's own", "another product's", "untagged", "elsewhere"],
)
def test_image_that_is_not_ours_to_delete_stays(prune: Prune, changes: dict) -> None:
    prune.add(1, **changes)
    prune.add(2)
    prune("--yes")
    assert "demo-1" in prune.left()


def test_compartment_that_cannot_be_read_ends_it(prune: Prune, tenancy: Tenancy) -> None:
    """An image in use there would look unused."""
    for day in (1, 2):
        prune.add(day)
    tenancy.faults.append(Fault(r"GET .*/instanceConfigurations$", 404, "NotAuthorizedOrNotFound", "no", times=9))
    with pytest.raises(Problem) as raised:
        prune("--yes")
    assert "read compute-management-family in tenancy" in raised.value.way_out
    assert prune.left() == ["demo-1", "demo-2"]


@pytest.mark.parametrize("call", [r"DELETE .*/o/", r"DELETE .*/images/"], ids=["file", "image"])
def test_deleting_that_failed_goes_on_in_the_next_run(prune: Prune, tenancy: Tenancy, call: str) -> None:
    for day in (1, 2):
        prune.add(day)
    tenancy.faults.append(Fault(call, 404, "NotAuthorizedOrNotFound", "Authorization failed"))
    with pytest.raises(Problem) as raised:
        prune("--yes")
    assert "-family in compartment COMPARTMENT" in raised.value.way_out
    prune("--yes")
    assert (prune.left(), prune.files()) == (["demo-2"], 1)


def test_busy_service_and_many_pages_are_no_matter(prune: Prune, tenancy: Tenancy) -> None:
    tenancy.page_size = 1
    tenancy.faults.append(Fault(r"DELETE .*/images/", *TOO_MANY))
    for day in (1, 2, 3):
        prune.add(day)
    prune("--yes")
    assert (prune.left(), prune.files()) == (["demo-3"], 1)


def test_without_a_bucket_images_go_all_the_same(prune: Prune, tenancy: Tenancy) -> None:
    tenancy.resources["buckets"].clear()
    for day in (1, 2):
        prune.add(day, is_uploaded=False)
    prune("--yes")
    assert prune.left() == ["demo-2"]


@pytest.mark.parametrize("keep", ["0", "-1", "all"])
def test_number_to_keep_is_checked(prune: Prune, keep: str, capsys) -> None:
    with pytest.raises(SystemExit):
        prune(f"--keep={keep}")
    assert "must be a whole number from 1" in capsys.readouterr().err


def test_image_of_a_deployment_made_here_stays(deployer: Deployer) -> None:
    """The same by a real apply: what the stack made refers to the image."""
    deployer.deploy("--yes")
    deployer.stack()["variables"].clear()
    newer = {**deployer.tenancy.resources["images"][IMAGE], "id": IMAGE + "2", "timeCreated": "2027-01-01T00:00:00Z"}
    deployer.tenancy.resources["images"][newer["id"]] = newer
    arguments = [f"--compartment={COMPARTMENT}", f"--build={deployer.build}", "--keep=1", "--yes"]
    command.main(arguments)
    assert {image["id"] for image in deployer.tenancy.live("images")} == {IMAGE, newer["id"]}
