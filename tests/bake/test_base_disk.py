"""Which base an image is baked on, and how its disk is fetched."""

import pytest

from scripts.bake import base_disk
from scripts.bake.base_disk import Base, choose_base, fetch_command, read_bases, why_unreachable
from scripts.problem import Problem

UBUNTU = Base("ubuntu-22.04", "1", "jammy", "3.10", "ubuntu", url="https://u.example/disk.img", sha256="a" * 64, auto=1)
DEBIAN = Base("debian-12", "12", "bookworm", "3.11", "debian", auto=2)
BASES = {base.name: base for base in (UBUNTU, DEBIAN)}


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLAMAKILN_CACHE", str(tmp_path))


def test_auto_takes_ubuntu_where_its_server_answers():
    assert choose_base("auto", BASES, lambda url: "")[0] is UBUNTU


def test_auto_says_which_server_is_missing_and_why():
    base, reason = choose_base("auto", BASES, lambda url: "no route to host")
    assert base is DEBIAN
    assert "\n" not in reason
    for part in ("ubuntu-22.04", "u.example", "no route to host"):
        assert part in reason


def test_auto_needs_no_server_for_a_disk_in_the_cache():
    UBUNTU.disk.parent.mkdir(parents=True)
    UBUNTU.disk.write_bytes(b"disk")
    assert choose_base("auto", BASES, lambda url: pytest.fail("asked the server"))[0] is UBUNTU


def test_an_asked_base_is_never_swapped():
    assert choose_base("ubuntu-22.04", BASES, lambda url: "down")[0] is UBUNTU


def test_unknown_base_names_the_known_ones_and_the_likeliest():
    with pytest.raises(Problem) as caught:
        choose_base("ubuntu-2204", BASES)
    assert "BASE=ubuntu-2204" in caught.value.message
    assert "debian-12" in caught.value.message
    assert "ubuntu-22.04" in caught.value.way_out


def test_shipped_bases_are_dated_and_verified():
    """A moving `release/` address would change under its checksum; a row without one would be taken on trust."""
    bases = read_bases()
    assert {"ubuntu-22.04", "ubuntu-24.04", "debian-12"} <= set(bases)
    for base in bases.values():
        if base.url:
            assert f"release-{base.release}/" in base.url
            assert len(base.sha256) == 64


@pytest.mark.parametrize(
    ("row", "named"),
    [('release = "1"', "suite"), ('release="1"\nsuite="s"\npython="3"\nuser="u"\nurl="https://x/"', "sha256")],
)
def test_a_wrong_row_is_named(tmp_path, row, named):
    path = tmp_path / "bases.toml"
    path.write_text(f'["some-base"]\n{row}\n')
    with pytest.raises(Problem) as caught:
        read_bases(path)
    assert "some-base" in caught.value.message
    assert named in caught.value.message


def test_the_builder_changes_the_key_of_what_it_builds(monkeypatch, tmp_path):
    before = DEBIAN.disk
    builder = tmp_path / "builder.sh"
    builder.write_text("another builder")
    monkeypatch.setattr(base_disk, "BUILDER", builder)
    assert DEBIAN.disk != before


def test_fetch_command_leaves_the_disk_where_it_is_looked_for():
    for base in BASES.values():
        assert str(base.disk) in fetch_command(base)


def test_a_closed_port_is_a_reason_and_not_a_traceback():
    assert why_unreachable("http://127.0.0.1:9/disk.img")
