"""The READMEs are true: tree, make targets, settings, links, names of files and figures are those of the repository."""

import re
import subprocess
from pathlib import Path

import pytest

from service.config import SETTINGS
from tests.docs.readme import READMES, REPOSITORY, anchors, section, tracked_files

README = READMES["README.md"]
MAKEFILE = (REPOSITORY / "Makefile").read_text()
TARGETS = dict(re.findall(r"^([a-z-]+):.*? ## (.+)$", MAKEFILE, re.M))
# What a README may name between backticks that must be a file or a folder (then with a slash at its end) here
PATH = re.compile(r"`((?!build/)[\w.-]+(?:/[\w.-]+)*(?:/|\.(?:py|sh|h|js|hcl|tf|tftpl|toml|conf)))`")

each_readme = pytest.mark.parametrize("readme", READMES)


def targets_of(text: str) -> set[str]:
    return set(re.findall(r"^make ([a-z-]+)", text, re.M)) | set(re.findall(r"`make ([a-z-]+)", text))


def tree_entries() -> dict[str, str]:
    """Path -> words, of the tree in the README: two spaces deeper is one folder deeper."""
    entries, folders = {}, []
    for line in re.search(r"```\n(.*?)```", section("README.md", "The tree"), re.S)[1].splitlines():
        indent, name, words = re.match(r"( *)(\S+) *(.*)", line).groups()
        folders = [*folders[: len(indent) // 2], name]
        entries["".join(folders)] = words
    return entries


def test_readme_is_read_in_five_minutes():
    assert len(README.splitlines()) <= 220, "what speaks of one folder belongs into the README of that folder"


@each_readme
def test_make_targets_that_are_named_are_there(readme: str):
    assert targets_of(READMES[readme]) - set(TARGETS) == set()


def test_every_make_target_is_told_somewhere():
    assert set(TARGETS) - set().union(*map(targets_of, READMES.values())) - {"help"} == set()


def test_tree_shows_every_folder_two_deep_and_no_other():
    parts = [file.split("/")[:-1] for file in tracked_files()]
    folders = {"/".join(part[:depth]) + "/" for part in parts for depth in (1, 2) if len(part) >= depth}
    assert set(tree_entries()) == folders


@pytest.mark.parametrize(("path", "words"), tree_entries().items())
def test_tree_says_a_few_words(path: str, words: str):
    assert 2 <= len(words.split()) <= 9


@each_readme
def test_settings_that_are_named_are_there(readme: str):
    named = set(re.findall(r"\bLLM_[A-Z_]+\b", READMES[readme]))
    assert named - {setting.name for setting in SETTINGS} == set()


def test_table_of_settings_is_the_one_of_the_service():
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+) \|$", section("service/README.md", "Settings"), re.M)
    told = [(name, "" if default == "none" else default.strip("`"), words) for name, default, words in rows]
    assert told == [(setting.name, setting.default, setting.help) for setting in SETTINGS]


@each_readme
def test_every_link_leads_somewhere(readme: str):
    folder = (REPOSITORY / readme).parent
    links = re.findall(r"\]\(([^)#\s]*)(?:#([^)]+))?\)", READMES[readme])
    for path, anchor in [link for link in links if "://" not in link[0]]:
        target = (folder / path).resolve() if path else REPOSITORY / readme
        assert target.exists(), path
        assert not anchor or anchor in anchors(str(target.relative_to(REPOSITORY))), f"{path}#{anchor}"


@each_readme
def test_every_path_that_is_named_is_there(readme: str):
    """From the root on, or from the README's own folder; a table of files is another test's."""
    text = "\n".join(line for line in READMES[readme].splitlines() if not line.startswith("|"))
    folder = (REPOSITORY / readme).parent
    missing = [p for p in PATH.findall(text) if not (REPOSITORY / p).exists() and not (folder / p).exists()]
    assert missing == []


@pytest.mark.parametrize(
    ("readme", "title", "least"),
    [
        ("README.md", "How to read the code", 22),
        ("service/README.md", "One request", 13),
        ("scripts/README.md", "One bake, file by file", 22),
    ],
)
def test_the_ways_through_the_code_name_their_files(readme: str, title: str, least: int):
    assert len(set(PATH.findall(section(readme, title)))) >= least


def test_figures_of_the_readme_are_those_of_the_folder_that_measured_them():
    text = section("README.md", "Figures")
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.*?) ?\| \[\w+\]\((.+?)#.+?\) \|$", text, re.M)
    assert len(rows) == text.count("\n|") - 2
    for label, here, best_peer, readme in rows:
        lines = READMES[readme].splitlines()
        assert any(f"| {here} |" in line and best_peer in line for line in lines), f"{label}: not in {readme}"


def test_price_of_the_readme_is_the_one_of_the_stack():
    prices = re.findall(r"\$\d+ a month", README)
    assert prices and set(prices) <= set(re.findall(r"\$\d+ a month", section("rm-stack/README.md", "Cost")))


@each_readme
def test_the_version_of_the_examples_is_the_version(readme: str):
    pins = (REPOSITORY / "packer" / "versions.env").read_text()
    version = re.search(r"^LLAMAKILN_VERSION=(.+)$", pins, re.M)[1]
    for found in re.findall(r"llamakiln-[a-z0-9._-]+?-(\d+\.\d+\.\d+)-arm64", READMES[readme]):
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
