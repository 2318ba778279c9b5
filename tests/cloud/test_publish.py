"""`make publish` against the loopback tenancy: upload in parts, import, and going on after every kind of stop."""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
import signal
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import oci
import pytest

from scripts.bake.pack_oci import image_metadata
from scripts.cloud import image_import
from scripts.cloud import publish as command
from scripts.cloud import storage as object_storage
from scripts.files import REPOSITORY
from scripts.problem import Problem
from tests.cloud.person import environment, settle_in
from tests.cloud.services.compute import A1, A2
from tests.cloud.services.object_storage import NAMESPACE, put_bucket
from tests.cloud.tenancy import COMPARTMENT, LOST, TENANCY, TOO_MANY, Fault, Gate, Tenancy

FILE = "llamakiln-demo-0.1.0-arm64.oci"
PART_BYTES = 20_000
N_PARTS = 6
TIMEOUT_S = 300
SEND = r"PUT .*/u/"


def oci_file(seed: int = 1) -> bytes:
    """An archive that the importer takes, of N_PARTS parts."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        metadata = json.dumps(image_metadata("Ubuntu", "22.04")).encode()
        disk = random.Random(seed).randbytes(PART_BYTES * N_PARTS - PART_BYTES // 2)
        for name, content in (("image_metadata.json", metadata), ("output.QCOW2", disk)):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


class Publish:
    """One person's machine with a finished bake, and `publish()` to run the script there."""

    def __init__(self, folder: Path, tenancy: Tenancy) -> None:
        self.folder, self.tenancy, self.build = folder, tenancy, folder / "build"
        self.build.mkdir()
        self.slept: list[float] = []
        self.write(oci_file())

    def write(self, content: bytes, name: str = FILE) -> None:
        self.content, self.sha256 = content, hashlib.sha256(content).hexdigest()
        (self.build / name).write_bytes(content)
        base = {"name": "ubuntu-22.04", "release": "20261115", "sha256": "0" * 64}
        files = [{"name": name.replace(".oci", ".qcow2")}, {"name": name}]
        (self.build / "manifest.json").write_text(json.dumps({"base": base, "files": files}))
        (self.build / "SHA256SUMS").write_text(f"{self.sha256}  {name}\n")

    @property
    def arguments(self) -> list[str]:
        return [f"--compartment={COMPARTMENT}", f"--build={self.build}"]

    def __call__(self, *arguments: str) -> None:
        self.tenancy.calls.clear()
        command.main([*self.arguments, *arguments], sleep=self.slept.append)

    def in_a_process(self) -> subprocess.Popen[str]:
        """The same as a program of its own, that can be killed."""
        program = (
            # A shell's background job ignores Ctrl-C, and so would what it starts.
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "from scripts import problem\nfrom scripts.cloud import publish, storage\n"
            f"storage.PART_BYTES, storage.AT_ONCE = {PART_BYTES}, 1\n"
            f"problem.run(lambda: publish.main({self.arguments!r}))\n"
        )
        variables = {**environment(self.tenancy, self.folder), "PATH": "/usr/bin:/bin", "HOME": str(self.folder)}
        return subprocess.Popen(
            [sys.executable, "-c", program], cwd=REPOSITORY, env=variables, stderr=subprocess.PIPE, text=True
        )

    @property
    def object_name(self) -> str:
        return image_import.object_name(FILE.removesuffix(".oci"), self.sha256)

    @property
    def stored(self) -> bytes:
        return self.tenancy.resources["objects"][f"llamakiln/{self.object_name}"]["content"]

    def images(self) -> list[dict]:
        return [image for image in self.tenancy.live("images") if "sha256" in image["freeformTags"]]

    def sent(self) -> int:
        return sum(bool(re.match(SEND, call)) for call in self.tenancy.calls)

    def changes(self) -> list[str]:
        return [call for call in self.tenancy.calls if not re.match("GET|HEAD", call)]


@pytest.fixture
def tenancy() -> Iterator[Tenancy]:
    with Tenancy() as running:
        yield running


@pytest.fixture
def publish(tmp_path: Path, tenancy: Tenancy, monkeypatch: pytest.MonkeyPatch) -> Publish:
    settle_in(monkeypatch, tenancy, tmp_path)
    monkeypatch.setattr(object_storage, "PART_BYTES", PART_BYTES)
    return Publish(tmp_path, tenancy)


@pytest.fixture
def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a test knows which parts were sent before one failed."""
    monkeypatch.setattr(object_storage, "AT_ONCE", 1)


def fault(publish: Publish, *arguments: str) -> Problem:
    with pytest.raises(Problem) as raised:
        publish(*arguments)
    return raised.value


def test_file_becomes_an_image_on_both_shapes(publish: Publish, tenancy: Tenancy, capsys) -> None:
    publish()
    assert publish.stored == publish.content
    assert tenancy.resources["buckets"]["llamakiln"]["publicAccessType"] == "NoPublicAccess"
    (image,) = publish.images()
    tags = {"product": "llamakiln", "model": "demo", "version": "0.1.0", "sha256": publish.sha256}
    assert image["freeformTags"] == tags
    assert image["displayName"] == f"llamakiln-demo-0.1.0-arm64-{publish.sha256[:8]}"
    assert set(tenancy.resources["imageShapes"][image["id"]]) == {A1, A2}
    report = json.loads((publish.build / "image-oci.json").read_text())
    assert (report["image_ocid"], report["model"], report["how"]) == (image["id"], "demo", "imported")
    assert report["base_image"] == {"name": "ubuntu-22.04", "release": "20261115"}
    shown = capsys.readouterr()
    assert shown.out == f"{image['id']}\n"
    assert "IMPORTING, 33 %" in shown.err


def test_second_run_changes_nothing(publish: Publish) -> None:
    publish()
    publish()
    assert publish.changes() == []
    assert json.loads((publish.build / "image-oci.json").read_text())["how"] == "found"


def test_object_that_is_there_is_not_uploaded_again(publish: Publish, tenancy: Tenancy) -> None:
    publish()
    tenancy.resources["images"].clear()
    publish()
    assert publish.sent() == 0
    assert len(publish.images()) == 1


def test_other_content_of_the_same_name_is_another_object_and_image(publish: Publish, tenancy: Tenancy) -> None:
    publish()
    publish.write(oci_file(seed=2))
    publish()
    assert publish.stored == publish.content
    assert len(tenancy.resources["objects"]) == len(publish.images()) == 2
    assert len({image["displayName"] for image in publish.images()}) == 2


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "killed"])
def test_upload_that_was_stopped_goes_on_with_what_is_there(publish: Publish, tenancy: Tenancy, how, capsys) -> None:
    gate = Gate(SEND, n_passing=3, is_lost=True)
    tenancy.gates.append(gate)
    program = publish.in_a_process()
    assert gate.reached.wait(TIMEOUT_S)
    program.send_signal(how)
    program.communicate(timeout=TIMEOUT_S)
    assert program.returncode == (130 if how == signal.SIGINT else -how)
    gate.opened.set()
    (upload,) = tenancy.resources["uploads"].values()
    assert len(upload["parts"]) == 3
    publish()
    assert publish.sent() == N_PARTS - 3
    assert publish.stored == publish.content
    assert tenancy.resources["uploads"] == {}
    assert f"going on: 3 of {N_PARTS} parts are there" in capsys.readouterr().err


@pytest.mark.usefixtures("one_at_a_time")
def test_parts_that_are_there_are_not_sent_again(publish: Publish, tenancy: Tenancy) -> None:
    """The last part never arrives; the next run sends it and nothing else."""
    tenancy.resources["damage"][N_PARTS] = object_storage.TRIES
    assert f"part {N_PARTS}" in fault(publish).message
    publish()
    assert publish.sent() == 1
    assert publish.stored == publish.content


@pytest.mark.usefixtures("one_at_a_time")
def test_part_of_other_bytes_is_sent_again(publish: Publish, tenancy: Tenancy) -> None:
    tenancy.resources["damage"][N_PARTS] = object_storage.TRIES
    fault(publish)
    (upload,) = tenancy.resources["uploads"].values()
    upload["parts"][1].update(md5="AAAAAAAAAAAAAAAAAAAAAA==", content=b"x" * PART_BYTES)
    publish()
    assert publish.sent() == 2
    assert publish.stored == publish.content


def test_part_damaged_on_its_way_is_refused_and_sent_again(publish: Publish, tenancy: Tenancy) -> None:
    tenancy.resources["damage"][2] = object_storage.TRIES - 1
    publish()
    assert publish.sent() == N_PARTS + object_storage.TRIES - 1
    assert publish.stored == publish.content
    assert publish.slept[:2] == [object_storage.PAUSE_S, 2 * object_storage.PAUSE_S]


@pytest.mark.parametrize("what", [TOO_MANY, LOST, (503, "ServiceUnavailable", "busy")], ids=["429", "cut", "503"])
def test_part_that_meets_a_passing_fault_is_sent_again(publish: Publish, tenancy: Tenancy, what) -> None:
    tenancy.faults.append(Fault(SEND, *what, times=1))
    publish()
    assert publish.sent() == N_PARTS + 1
    assert publish.stored == publish.content


def test_upload_whose_last_answer_was_lost_is_there(publish: Publish, tenancy: Tenancy) -> None:
    tenancy.faults.append(Fault(r"POST .*/u/", *LOST))
    fault(publish)
    publish()
    assert publish.sent() == 0
    assert len(publish.images()) == 1


def test_import_whose_answer_was_lost_makes_one_image(publish: Publish, tenancy: Tenancy) -> None:
    tenancy.faults.append(Fault(r"POST .*/images$", *LOST))
    publish()
    assert len(publish.images()) == 1


def test_busy_service_is_asked_again_for_the_import(publish: Publish, tenancy: Tenancy) -> None:
    tenancy.faults.append(Fault(r"POST .*/images$", *TOO_MANY))
    publish()
    assert len(publish.images()) == 1


def test_image_still_importing_is_waited_for(publish: Publish, tenancy: Tenancy) -> None:
    tenancy.looks = 5
    tenancy.faults.append(Fault(r"GET .*/workRequests$", 404, "NotAuthorizedOrNotFound", "no"))
    fault(publish)  # stopped after the import began
    publish()
    assert not [call for call in tenancy.calls if call.endswith("/images") and call.startswith("POST")]
    (image,) = publish.images()
    assert image["lifecycleState"] == "AVAILABLE"
    assert publish.slept


def test_import_that_fails_is_told_in_the_services_words(publish: Publish) -> None:
    publish.write(b"this is no archive" * 5000)
    problem = fault(publish)
    assert "became DELETED: The image file is not a valid OCI image archive" in problem.message
    assert "sha256sum -c SHA256SUMS" in problem.way_out
    assert not (publish.build / "image-oci.json").exists()


def test_link_opens_the_file_without_credentials_until_it_ends(publish: Publish, tenancy: Tenancy, capsys) -> None:
    publish("--link=7")
    link = capsys.readouterr().out.splitlines()[1]
    assert link.endswith("-arm64-" + publish.sha256[:16] + ".oci")
    assert urllib.request.urlopen(link).read() == publish.content
    (made,) = tenancy.resources["links"].values()
    made["timeExpires"] = "2026-01-01T00:00:00Z"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(link)


def test_link_for_an_imported_file_uploads_it_if_it_is_gone(publish: Publish, tenancy: Tenancy) -> None:
    publish()
    tenancy.resources["objects"].clear()
    publish("--link=1")
    assert publish.stored == publish.content
    assert len(publish.images()) == 1


def test_dry_run_says_what_it_would_do_and_changes_nothing(publish: Publish, tenancy: Tenancy, capsys) -> None:
    publish("--dry-run", "--link=7")
    assert publish.changes() == []
    shown = capsys.readouterr().err
    for line in ("would make the private bucket llamakiln", f"would upload {publish.object_name}", "would import"):
        assert line in shown
    tenancy.resources["damage"][1] = object_storage.TRIES
    fault(publish)
    publish("--dry-run")
    assert f"would go on uploading {publish.object_name}" in capsys.readouterr().err


@pytest.mark.usefixtures("one_at_a_time")
def test_lists_of_many_pages_are_read_to_the_end(publish: Publish, tenancy: Tenancy) -> None:
    tenancy.page_size = 1
    tenancy.resources["damage"][N_PARTS] = object_storage.TRIES
    fault(publish)
    publish()
    assert publish.sent() == 1


def refuse(tenancy: Tenancy, call: str) -> None:
    tenancy.faults.append(Fault(call, 404, "NotAuthorizedOrNotFound", "Authorization failed", times=99))


@pytest.mark.parametrize(
    ("call", "message", "statement"),
    [
        (rf"GET .*/compartments/{COMPARTMENT}", f"compartment {COMPARTMENT}: not there", "inspect compartments"),
        (rf"POST /n/{NAMESPACE}/b$", "bucket llamakiln: not there", "manage object-family in compartment"),
        (SEND, "of llamakiln-demo", "manage object-family in compartment"),
        (r"POST .*/images$", "the import of llamakiln-demo", "manage instance-family in compartment"),
        (r"PUT .*/shapes/", "the shapes of image", "manage instance-family in compartment"),
    ],
    ids=["compartment", "bucket", "part", "import", "shapes"],
)
def test_missing_policy_is_named(publish: Publish, tenancy: Tenancy, call: str, message: str, statement: str) -> None:
    refuse(tenancy, call)
    problem = fault(publish)
    assert message in problem.message
    assert statement in problem.way_out


def test_bucket_that_belongs_to_somebody_else_is_told(publish: Publish, tenancy: Tenancy) -> None:
    put_bucket(tenancy, "llamakiln")
    tenancy.faults.append(Fault(r"GET .*/b/llamakiln$", 404, "BucketNotFound", "not yours", times=9))
    problem = fault(publish)
    assert "bucket llamakiln: the tenancy has it already" in problem.message
    assert "BUCKET=name" in problem.way_out


def test_file_that_is_not_the_one_baked_is_not_sent(publish: Publish, tenancy: Tenancy) -> None:
    (publish.build / FILE).write_bytes(publish.content[:-1])
    assert "and SHA256SUMS says" in fault(publish).message
    assert tenancy.calls == []


@pytest.mark.parametrize(
    ("name", "message"),
    [("other.oci", "must be called llamakiln-"), ("llamakiln-x-1.0-arm64.oci", "SHA256SUMS does not name")],
    ids=["other name", "not in SHA256SUMS"],
)
def test_file_of_ones_own_must_be_a_bake(publish: Publish, name: str, message: str) -> None:
    (publish.build / name).write_bytes(b"x")
    assert message in fault(publish, f"--file={publish.build / name}").message


def test_build_without_a_bake_is_told(publish: Publish) -> None:
    (publish.build / "manifest.json").unlink()
    assert "names no .oci file" in fault(publish).message


def test_root_compartment_needs_no_look(publish: Publish, tenancy: Tenancy) -> None:
    command.main([f"--compartment={TENANCY}", f"--build={publish.build}", "--dry-run"])
    assert not [call for call in tenancy.calls if "/compartments/" in call]


@pytest.mark.parametrize("days", ["0", "366", "week"])
def test_days_of_a_link_are_checked(publish: Publish, days: str, capsys) -> None:
    with pytest.raises(SystemExit):
        publish(f"--link={days}")
    assert "must be a whole number of days from 1 to 365" in capsys.readouterr().err


def test_sdk_reads_what_the_double_says(publish: Publish, tenancy: Tenancy) -> None:
    """Wrong field names would be None here."""
    publish()
    storage = oci.object_storage.ObjectStorageClient(tenancy.config, service_endpoint=tenancy.url)
    (found,) = storage.list_objects(NAMESPACE, "llamakiln", fields="name,size,md5,etag,timeCreated").data.objects
    assert None not in (found.name, found.size, found.md5, found.etag, found.time_created)
