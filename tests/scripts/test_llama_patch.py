"""Our changes to llama.cpp go where they were meant for, or nowhere, and leave the tree they came from alone."""

import re
import subprocess
from pathlib import Path

import llama_patch
import pytest
from llama_tree import write_tree

EDITS = llama_patch.EDITS


@pytest.fixture
def tree(tmp_path) -> Path:
    return write_tree(tmp_path / "tree")


def test_copy_has_the_changes_and_the_original_has_not(tree, tmp_path):
    before = {file: (tree / file).read_text() for file in {edit.file for edit in EDITS}}
    target = llama_patch.apply(tree, tmp_path / "made/here")
    for edit in EDITS:
        assert edit.result in (target / edit.file).read_text()
        assert edit.found in edit.result or edit.found not in (target / edit.file).read_text()
    assert {file: (tree / file).read_text() for file in before} == before
    for place, header in llama_patch.HEADERS.items():
        assert (target / place).read_text() == header.read_text()
        line = f'#include "{header.name}"'
        includers = {edit.file for edit in EDITS if line in edit.made}
        includers |= {other for other, text in llama_patch.HEADERS.items() if line in text.read_text()}
        assert {place.parent} == {includer.parent for includer in includers}
    assert (target / "CMakeLists.txt").samefile(tree / "CMakeLists.txt")
    assert [path.name for path in target.parent.iterdir()] == ["here"]


def test_it_is_made_once(tree, tmp_path):
    target = llama_patch.apply(tree, tmp_path / "made")
    (tree / llama_patch.OPS).unlink()
    assert llama_patch.apply(tree, target) == target


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.found.strip().splitlines()[0])
@pytest.mark.parametrize("n", [0, 2])
def test_another_tree_is_refused(tree, tmp_path, edit, n):
    file = tree / edit.file
    file.write_text(file.read_text().replace(edit.found, edit.found * n))
    with pytest.raises(llama_patch.Mismatch, match=f"{edit.file.name}: .* is there {n} times, not once"):
        llama_patch.apply(tree, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_failed_copy_leaves_nothing(tree, tmp_path, monkeypatch):
    def fill_up(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fill_up)
    with pytest.raises(OSError, match="No space left"):
        llama_patch.apply(tree, tmp_path / "made/here")
    assert list((tmp_path / "made").iterdir()) == []


@pytest.mark.parametrize("place", llama_patch.HEADERS, ids=lambda place: place.name)
def test_key_names_the_headers_and_the_edits(tmp_path, monkeypatch, place):
    before = llama_patch.key()
    with monkeypatch.context() as patch:
        patch.setattr(llama_patch, "EDITS", EDITS[1:])
        assert llama_patch.key() != before
    other = tmp_path / place.name
    other.write_text(llama_patch.HEADERS[place].read_text() + "// more\n")
    monkeypatch.setitem(llama_patch.HEADERS, place, other)
    assert llama_patch.key() != before


def test_hidden_cells_are_counted_in_whole_blocks(tmp_path):
    """The C function itself, against counting one by one."""
    function = re.search(
        r"^static int64_t count_hidden_cells.*?^}$",
        (llama_patch.KERNELS / "grouped_attention.h").read_text(),
        re.M | re.S,
    )[0]
    source = tmp_path / "count.c"
    source.write_text(
        "#include <stdint.h>\n#include <stdio.h>\n#include <string.h>\ntypedef uint16_t ggml_fp16_t;\n"
        + function
        + """
int main(void) {
    ggml_fp16_t mask[200];
    for (int n = 0; n <= 130; ++n) {
        for (int seen = 0; seen <= n; ++seen) {  /* the first cell that is seen; none if it is n */
            for (int i = 0; i < 200; ++i) { mask[i] = 0xFC00; }
            if (seen < n) { mask[seen] = seen % 2 ? 0x0000 : 0xBC00; }
            if (count_hidden_cells(mask, n) != seen / 32 * 32) { printf("n=%d seen=%d\\n", n, seen); return 1; }
        }
    }
    return 0;
}
"""
    )
    subprocess.run(["cc", "-std=c11", "-Wall", "-Werror", "-o", tmp_path / "count", source], check=True)
    subprocess.run([tmp_path / "count"], check=True)
