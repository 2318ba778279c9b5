"""The README is true: its tree, its make targets, its settings and its files are those of the repository."""

import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

README = (REPOSITORY / "README.md").read_text()
MAKEFILE = (REPOSITORY / "Makefile").read_text()
TARGETS = dict(re.findall(r"^([a-z-]+):.*? ## (.+)$", MAKEFILE, re.M))


def section(title: str) -> str:
    """The text under a heading, up to the next heading of any level."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", README, re.M | re.S)
    assert found, f"README.md has no section {title!r}"
    return found[1]


def tracked_files() -> set[str]:
    answer = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return set(answer.stdout.split("\n")) - {""}


def tree_entries() -> dict[str, str]:
    """Path -> words, of the tree in the README: two spaces deeper is one folder deeper."""
    entries, folders = {}, []
    for line in re.search(r"```\n(.*?)```", section("The tree"), re.S)[1].splitlines():
        indent, name, words = re.match(r"( *)(\S+) *(.*)", line).groups()
        folders = [*folders[: len(indent) // 2], name]
        entries["".join(folders)] = words
    return entries


def test_every_make_target_is_in_the_readme():
    used = set(re.findall(r"^make ([a-z-]+)", README, re.M)) | set(re.findall(r"`make ([a-z-]+)", README))
    assert used - set(TARGETS) == set(), "the README names targets that are not there"
    assert set(TARGETS) - used - {"help"} == set(), "targets the README does not mention"


def test_every_path_of_the_tree_is_there():
    files = tracked_files()
    for path in tree_entries():
        assert path in files or any(file.startswith(path) for file in files if path.endswith("/")), path


@pytest.mark.parametrize("folder", ["service/", "scripts/", "packer/", "rm-stack/"])
def test_every_file_of_a_room_is_in_the_tree(folder):
    """A newcomer finds each file by what the tree says of it."""
    entries = tree_entries()
    shown = {path for path in entries if path.startswith(folder)}
    for file in tracked_files():
        is_plain = file.startswith(folder) and "/" not in file.removeprefix(folder)
        if is_plain and not file.endswith(("__init__.py", ".lock")):
            assert file in shown, f"{file} is not in the README's tree"


def test_the_tree_says_a_few_words_of_each():
    for path, words in tree_entries().items():
        if path.count("/") == 1 and path.endswith("/"):
            continue  # a room: its files speak for it
        assert 2 <= len(words.split()) <= 9, (path, words)


def test_every_setting_is_in_the_readme_and_in_llm_env():
    from service.config import SETTINGS

    named = set(re.findall(r"\bLLM_[A-Z_]+\b", README))
    known = {setting.name for setting in SETTINGS}
    assert named - known == set(), "the README names settings that do not exist"
    assert known - set(re.findall(r"^\| `(LLM_[A-Z_]+)`", section("Settings"), re.M)) == set(), "not in the table"


def test_every_link_to_a_file_leads_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target:
            assert (REPOSITORY / target).exists(), target


def test_the_version_of_the_examples_is_the_version():
    pins = (REPOSITORY / "packer" / "versions.env").read_text()
    version = re.search(r"^LLAMAKILN_VERSION=(.+)$", pins, re.M)[1]
    for found in re.findall(r"llamakiln-[a-z0-9._-]+?-(\d+\.\d+\.\d+)-arm64", README):
        assert found == version


def test_no_package_registry_is_named():
    """Mirrors differ between machines: each client uses the one it is set up with."""
    hosts = ("deb.d" + "ebian.org", "py" + "pi.org", "pythonhos" + "ted.org", "npmj" + "s.org", "proxy.go" + "lang.org")
    command = ["git", "grep", "-lIF", *(word for host in hosts for word in ("-e", host))]
    found = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert found.stdout == ""


def test_ci_calls_the_two_commands_of_the_readme():
    """What a newcomer types is what is proven: the first code block and .ci/run hold the same commands."""
    first = re.findall(r"^make \w+", re.search(r"```sh\n(.*?)```", README, re.S)[1], re.M)
    in_ci = re.findall(r"^make \w+", (REPOSITORY / ".ci" / "run").read_text(), re.M)
    assert sorted(first) == sorted(in_ci) == ["make image", "make test"]


def test_every_row_of_the_faults_names_what_runs_it():
    """service/README.md: a scenario of `make stress`, or a file of tests that is there."""
    from tests.stress import faults, load

    text = (REPOSITORY / "service" / "README.md").read_text()
    rows = re.findall(r"^\| .+ \|$", re.search(r"^## Faults\n(.*?)(?=^## )", text, re.M | re.S)[1], re.M)[1:]
    files = {Path(file).stem for file in tracked_files()}
    named = set()
    for row in rows:
        last = row.rstrip(" |").rsplit("|", 1)[1]
        scenarios, tests = set(re.findall(r"`([^`]+)`", last)), set(re.findall(r"\btest_\w+", last))
        assert scenarios or tests, row
        assert scenarios <= {*load.SCENARIOS, *faults.SCENARIOS} and tests <= files, row
        named |= scenarios
    assert set(faults.SCENARIOS) <= named
