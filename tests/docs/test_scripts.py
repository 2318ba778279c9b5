"""scripts/README.md is true: it names every file of every room, once, and no other."""

import re
from collections import Counter

import pytest

from scripts.files import REPOSITORY
from tests.docs.test_readme import tracked_files

ROOMS = REPOSITORY / "scripts"
README = (ROOMS / "README.md").read_text()
CORPUS = "models/demo/corpus/"  # data, which demo/corpus.py reads


def files() -> set[str]:
    """What a reader may look for, from scripts/ on."""
    below = {file.removeprefix("scripts/") for file in tracked_files() if file.startswith("scripts/")}
    return {file for file in below if not file.endswith(("__init__.py", "README.md")) and not file.startswith(CORPUS)}


def rows() -> list[tuple[str, str]]:
    """(file, words) of each table row; a heading with a folder in it is where the rows below it are."""
    found, folder = [], ""
    for line in README.splitlines():
        if line.startswith("## "):
            folder = (re.match(r"## (\w+/)", line) or [""] * 2)[1]
        elif row := re.match(r"\| `([^`]+)` \| (.+) \|$", line):
            found.append((folder + row[1], row[2]))
    return found


def test_every_script_has_a_row_in_its_room_and_every_row_a_script():
    assert Counter(file for file, _ in rows()) == Counter(files())


def test_every_file_that_the_bake_names_is_there():
    text = re.search(r"^## One bake.*?(?=^## )", README, re.M | re.S)[0]
    named = re.findall(r"`([\w/]+\.(?:py|sh))`", text)
    assert len(named) > 15
    assert [name for name in named if name not in files()] == []


@pytest.mark.parametrize(("file", "words"), rows())
def test_a_row_says_a_few_words(file, words):
    assert 2 <= len(words.split()) <= 9
