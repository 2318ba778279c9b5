"""What the tests of this folder read: every README, and the files that git knows."""

import re
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def tracked_files() -> set[str]:
    answer = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return set(answer.stdout.split("\n")) - {""}


READMES = {file: (REPOSITORY / file).read_text() for file in sorted(tracked_files()) if file.endswith("README.md")}


def section(readme: str, title: str) -> str:
    """The text under a heading, up to the next heading of any level."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", READMES[readme], re.M | re.S)
    assert found, f"{readme} has no section {title!r}"
    return found[1]


def anchors(readme: str) -> set[str]:
    """What a link may name behind #: each heading, as GitHub spells it."""
    headings = re.findall(r"^#+ (.+)$", READMES[readme], re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
