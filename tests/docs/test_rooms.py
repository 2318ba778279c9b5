"""The tables of files are true: the README of a room names every file of it, once, and no other.

A new file is a new row `| file | a few words |`, under the heading that names its folder.
"""

import re

import pytest

from tests.docs.readme import READMES, tracked_files

ROOMS = ("packer", "rm-stack", "scripts", "service", "tests/bench")
TOLD_ELSEWHERE = ("README.md", "__init__.py")  # a folder's own words for itself


def files(room: str) -> set[str]:
    """What a reader may look for, from the room on."""
    below = {file.removeprefix(room + "/") for file in tracked_files() if file.startswith(room + "/")}
    return {file for file in below if file.rpartition("/")[2] not in TOLD_ELSEWHERE}


def rows(room: str) -> list[tuple[str, str]]:
    """(file, words) of each row of the tables of files; a heading `folder/: words` says where the rows below it are. A
    row that ends in a slash stands for all that is in that folder."""
    found, folder, is_told = [], "", False
    for line in READMES[f"{room}/README.md"].splitlines():
        if line.startswith("#"):
            folder = (re.match(r"#+ ([\w/-]+/):", line) or [""] * 2)[1]
        elif not line.startswith("|"):
            is_told = False
        elif line.startswith("| file |"):
            is_told = True
        elif is_told and (row := re.match(r"\| `(\S+)` \| (.+) \|$", line)):
            found.append((folder + row[1], row[2]))
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_every_file_has_one_row(room: str):
    names = [name for name, _ in rows(room)]
    shown = {file: [n for n in names if file == n or (n.endswith("/") and file.startswith(n))] for file in files(room)}
    assert {file: by for file, by in shown.items() if len(by) != 1} == {}, f"{room}/README.md: a row for each of these"


@pytest.mark.parametrize("room", ROOMS)
def test_every_row_has_a_file(room: str):
    known = files(room)
    known |= {file[: cut.end()] for file in known for cut in re.finditer("/", file)}
    gone = [name for name, _ in rows(room) if name not in known]
    assert gone == [], f"{room}/README.md: rows of files that are gone"


@pytest.mark.parametrize(("file", "words"), [(f"{room}/{file}", words) for room in ROOMS for file, words in rows(room)])
def test_a_row_says_a_few_words(file: str, words: str):
    assert 2 <= len(words.split()) <= 9
