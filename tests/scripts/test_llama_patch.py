"""Our change to llama.cpp goes where it was meant for, or nowhere, and leaves the tree it came from alone."""

import subprocess
from pathlib import Path

import llama_patch
import pytest

LINES = [line for line, _, _ in llama_patch.EDITS]


@pytest.fixture
def tree(tmp_path) -> Path:
    """As much of a llama.cpp as the change looks at."""
    ops = tmp_path / "tree" / llama_patch.OPS
    ops.parent.mkdir(parents=True)
    ops.write_text("\n".join(["// first", *LINES, "// last", ""]))
    (tmp_path / "tree/CMakeLists.txt").write_text("project(llama)\n")
    return tmp_path / "tree"


def test_copy_has_the_change_and_the_original_has_not(tree, tmp_path):
    before = (tree / llama_patch.OPS).read_text()
    target = llama_patch.apply(tree, tmp_path / "made/here")
    changed = (target / llama_patch.OPS).read_text()
    for line, added_before, added_after in llama_patch.EDITS:
        assert f"\n{added_before}{line}\n{added_after}" in changed
    assert (tree / llama_patch.OPS).read_text() == before != changed
    assert (target / "CMakeLists.txt").samefile(tree / "CMakeLists.txt")
    assert [path.name for path in target.parent.iterdir()] == ["here"]


def test_it_is_made_once(tree, tmp_path):
    target = llama_patch.apply(tree, tmp_path / "made")
    (tree / llama_patch.OPS).unlink()
    assert llama_patch.apply(tree, target) == target


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize(("lines", "n"), [([], 0), (["", ""], 2)])
def test_another_tree_is_refused(tree, tmp_path, line, lines, n):
    ops = tree / llama_patch.OPS
    ops.write_text(ops.read_text().replace(f"\n{line}\n", "\n".join(["", *(line for _ in lines), ""])))
    with pytest.raises(llama_patch.Mismatch, match=f"is there {n} times, not once"):
        llama_patch.apply(tree, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_failed_copy_leaves_nothing(tree, tmp_path, monkeypatch):
    def fill_up(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fill_up)
    with pytest.raises(OSError, match="No space left"):
        llama_patch.apply(tree, tmp_path / "made/here")
    assert list((tmp_path / "made").iterdir()) == []


def test_hidden_cells_are_counted_in_whole_blocks(tmp_path):
    """The C function itself, against counting one by one."""
    source = tmp_path / "count.c"
    source.write_text(
        "#include <stdint.h>\n#include <stdio.h>\n#include <string.h>\ntypedef uint16_t ggml_fp16_t;\n"
        + llama_patch.COUNT
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
