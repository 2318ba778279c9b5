"""The page's files: small, stamped, and what others wrote is what they published. No browser."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from pathlib import Path

import pytest

from scripts.setup import stamp_page
from service.api import page
from tests.runtime.door import ROOT

VENDORS = [ROOT / "service/static/vendor", ROOT / "tests/page/vendor"]
MAX_COMPRESSED = 100_000


def test_stamp_is_of_these_files():
    assert stamp_page.find_stale() == [], "run: python3 -m scripts.setup.stamp_page"


def test_another_content_is_another_stamp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("a.js", "index.html"):
        (tmp_path / name).write_text(f'"/static/{"0" * 12}/x"')
    monkeypatch.setattr(stamp_page, "STATIC", tmp_path)
    monkeypatch.setattr(stamp_page, "REPOSITORY", tmp_path)
    monkeypatch.setattr(stamp_page, "NAMERS", [tmp_path / "index.html"])
    first = stamp_page.compute_stamp()
    assert stamp_page.main(["--check"]) == 1 and stamp_page.main([]) == 0 and stamp_page.main(["--check"]) == 0
    assert (tmp_path / "index.html").read_text() == f'"/static/{first}/x"'
    (tmp_path / "a.js").write_text("other")
    assert stamp_page.compute_stamp() != first


@pytest.mark.parametrize("folder", VENDORS, ids=lambda folder: folder.parent.name)
def test_what_others_wrote_is_what_they_published(folder: Path):
    rows = json.loads((folder / "vendor.json").read_text())
    for row in rows:
        for file, sha256 in ((row["file"], row["sha256"]), (row["license_file"], row["license_sha256"])):
            assert hashlib.sha256((folder / file).read_bytes()).hexdigest() == sha256, file
        assert row["version"] in (folder / row["file"]).read_text()[:400]
    named = {file for row in rows for file in (row["file"], row["license_file"])}
    assert {path.name for path in folder.iterdir()} == named | {"vendor.json"}


def test_page_is_small():
    names = [*page.HTML.values(), *(name for name in page.list_assets() if name.endswith((".js", ".css", ".svg")))]
    sizes = {name: len(gzip.compress((page.STATIC / name).read_bytes(), 6)) for name in names}
    assert sum(sizes.values()) < MAX_COMPRESSED, sizes


def follow_imports(name: str) -> set[str]:
    text = (page.STATIC / name).read_text()
    found = {name}
    for path in re.findall(r'^import .*?"\./([^"]+)";$', text, re.MULTILINE):
        found |= {path} if path.startswith("vendor/") else follow_imports(path)
    return found


@pytest.mark.parametrize("html", page.HTML.values())
def test_every_script_is_asked_for_at_once(html: str):
    """Without these lines a browser would find one import after another, each a journey to the node."""
    text = (page.STATIC / html).read_text()
    (entry,) = re.findall(r'<script type="module" src="/static/\w+/([^"]+)"></script>', text)
    assert set(re.findall(r'"modulepreload" href="/static/\w+/([^"]+)"', text)) == follow_imports(entry) - {entry}


def test_every_file_is_needed():
    html = "".join((page.STATIC / name).read_text() for name in page.HTML.values())
    for name in page.list_assets():
        assert name in html or name.startswith("vendor/"), name


def test_no_place_elsewhere_is_named():
    for path in page.STATIC.glob("*.*"):
        found = re.findall(r"https?://[\w.-]+", path.read_text())
        assert set(found) <= {"http://www.w3.org", "http://NODE"}, path
