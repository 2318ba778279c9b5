"""What goes onto an image: the stage is complete, anonymous and reproducible, and its key follows its content."""

import json
import os
import tarfile

import pytest

from scripts.bake import payload
from scripts.bake.base_disk import read_bases
from scripts.bake.payload import Parts, bake_key, image_facts, provisioners, read_pins, write_stage
from scripts.files import REPOSITORY
from scripts.models.catalog import Model


@pytest.fixture
def parts(tmp_path):
    sets = tmp_path / "sets-key"
    (sets / "arm64-a2").mkdir(parents=True)
    (sets / "arm64-a2" / "set.json").write_text("{}")
    site = tmp_path / "site-key"
    (site / "bottle").mkdir(parents=True)
    (site / "bottle" / "__pycache__").mkdir()
    (site / "bottle" / "__pycache__" / "x.pyc").write_bytes(b"bytes of this machine's Python")
    model_path = tmp_path / "m.gguf"
    model_path.write_bytes(b"GGUF")
    tuned = {"LLM_REPACK": "off", "LLM_THREADS": "3"}
    hub = {"repo": "o/n", "revision": "1" * 40}
    model = Model("m", "folder/m.gguf", "0" * 64, 4, "MIT", "gguf", 512, settings=tuned, **hub)
    return Parts(read_bases()["ubuntu-22.04"], model, sets, site, model_path)


def members(path):
    with tarfile.open(path) as tar:
        return {member.name: member for member in tar.getmembers()}


def test_every_provisioner_is_there_and_sees_its_twin():
    names = provisioners()
    assert names[0] == "scripts/node/wait_for_cloud_init.sh"
    assert names[-2:] == ["scripts/node/clean_image.sh", "scripts/node/check_hygiene.sh"]
    for name in names:
        assert os.access(REPOSITORY / name, os.X_OK), name


def test_the_stage_holds_all_that_the_provisioners_take_from_it(parts, tmp_path):
    write_stage(tmp_path / "stage.tar", parts, {"version": "1"})
    found = members(tmp_path / "stage.tar")
    for name in ("bake.env", "image.json", "scripts/lib.sh", "lib/arm64-a2/set.json", "site/bottle", "model/m.gguf"):
        assert name in found, name
    assert "service/__main__.py" in found
    assert "files/etc/llm/llm.env" in found


def test_the_stage_is_nobodys_and_has_no_byte_code(parts, tmp_path):
    write_stage(tmp_path / "stage.tar", parts, {})
    for name, member in members(tmp_path / "stage.tar").items():
        assert (member.uid, member.gid, member.mtime) == (0, 0, 0), name
        assert "__pycache__" not in name


def test_same_parts_same_bytes(parts, tmp_path):
    write_stage(tmp_path / "a" / "stage.tar", parts, {"x": 1})
    write_stage(tmp_path / "b" / "stage.tar", parts, {"x": 1})
    assert (tmp_path / "a" / "stage.tar").read_bytes() == (tmp_path / "b" / "stage.tar").read_bytes()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["stage.tar"], "nothing half-written is left"


def test_bake_env_says_which_model_with_which_settings(parts, tmp_path):
    write_stage(tmp_path / "stage.tar", parts, {})
    with tarfile.open(tmp_path / "stage.tar") as tar:
        lines = tar.extractfile("bake.env").read().decode().splitlines()
    assert set(lines) == {
        "MODEL_NAME=m",
        "MODEL_FILE=m.gguf",
        f"MODEL_SHA256={'0' * 64}",
        "MODEL_CONTEXT=512",
        "MODEL_SETTINGS='LLM_REPACK=off LLM_THREADS=3'",
    }


def test_image_facts_name_what_was_baked(parts):
    facts = image_facts(parts, "key")
    assert facts["version"] == read_pins()["LLAMAKILN_VERSION"]
    assert facts["base"] == {"name": "ubuntu-22.04", "release": parts.base.release}
    assert facts["model"]["file"] == "m.gguf"
    assert facts["library_sets"] == ["arm64-a2"]
    json.dumps(facts)


def test_the_key_follows_what_is_on_the_image(parts, monkeypatch):
    before = bake_key(parts)
    assert bake_key(parts) == before
    assert bake_key(parts, "another base disk") != before
    monkeypatch.setattr(payload, "read_pins", lambda: {"LLAMAKILN_VERSION": "9"})
    assert bake_key(parts) != before
