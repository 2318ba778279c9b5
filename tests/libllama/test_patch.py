"""Our changes to llama.cpp go where they were meant for, or nowhere, and leave the tree they came from alone."""

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from scripts.files import REPOSITORY
from scripts.libllama import patch as changes
from tests.libllama import stores
from tests.libllama.tree import write_tree

EDITS = changes.EDITS


@pytest.fixture
def tree(tmp_path) -> Path:
    return write_tree(tmp_path / "tree")


def test_copy_has_the_changes_and_the_original_has_not(tree, tmp_path):
    before = {file: (tree / file).read_text() for file in {edit.file for edit in EDITS}}
    target = changes.apply(tree, tmp_path / "made/here")
    for edit in EDITS:
        assert edit.result in (target / edit.file).read_text()
        assert edit.found in edit.result or edit.found not in (target / edit.file).read_text()
    assert {file: (tree / file).read_text() for file in before} == before
    for place, header in changes.HEADERS.items():
        assert (target / place).read_text() == header.read_text()
        line = f'#include "{header.name}"'
        includers = {edit.file for edit in EDITS if line in edit.made}
        includers |= {other for other, text in changes.HEADERS.items() if line in text.read_text()}
        assert {place.parent} == {includer.parent for includer in includers}
    assert (target / "CMakeLists.txt").samefile(tree / "CMakeLists.txt")
    assert [path.name for path in target.parent.iterdir()] == ["here"]


def test_it_is_made_once(tree, tmp_path):
    target = changes.apply(tree, tmp_path / "made")
    (tree / changes.OPS).unlink()
    assert changes.apply(tree, target) == target


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.found.strip().splitlines()[0])
@pytest.mark.parametrize("n", [0, 2])
def test_another_tree_is_refused(tree, tmp_path, edit, n):
    file = tree / edit.file
    file.write_text(file.read_text().replace(edit.found, edit.found * n))
    with pytest.raises(changes.Mismatch, match=f"{edit.file.name}: .* is there {n} times, not once"):
        changes.apply(tree, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_peers_get_the_fixes_and_nothing_else(tree, tmp_path):
    target = changes.apply(tree, tmp_path / "made", changes.FIXES)
    fixed = {edit.file for edit in changes.FIXES}
    assert fixed
    for file in {edit.file for edit in EDITS}:
        assert (target / file).samefile(tree / file) == (file not in fixed)
    assert all(edit.result in (target / edit.file).read_text() for edit in changes.FIXES)
    assert not any((target / place).exists() for place in changes.HEADERS)
    assert changes.key(changes.FIXES) != changes.key()


def test_failed_copy_leaves_nothing(tree, tmp_path, monkeypatch):
    def fill_up(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fill_up)
    with pytest.raises(OSError, match="No space left"):
        changes.apply(tree, tmp_path / "made/here")
    assert list((tmp_path / "made").iterdir()) == []


@pytest.mark.parametrize("place", changes.HEADERS, ids=lambda place: place.name)
def test_key_names_the_headers_and_the_edits(tmp_path, monkeypatch, place):
    before = changes.key()
    assert changes.key(EDITS[1:]) != before
    other = tmp_path / place.name
    other.write_text(changes.HEADERS[place].read_text() + "// more\n")
    monkeypatch.setitem(changes.HEADERS, place, other)
    assert changes.key() != before


def test_hidden_cells_are_counted_in_whole_blocks(tmp_path):
    """The C function itself, against counting one by one."""
    header = (changes.KERNELS / "grouped_attention.h").read_text()
    function = re.search(r"^static int64_t count_hidden_cells.*?^}$", header, re.M | re.S)[0]
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


# ---- AMX: what ldtilecfg reads, from the compiler's own code, because few machines can run it

COMPILERS = [
    "c++",
    *(f"{name}-{n}" for name in ("g++", "clang++") for n in range(11, 23) if shutil.which(f"{name}-{n}")),
]
LEVELS = ["-march=x86-64", "-mavx2", "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni"]
# palette 1; colsb[16] from byte 16: two tiles of 64, two of 32, four of 64; rows[16] from byte 48: 8, 8, and six of 16
WIDTHS = b"".join(width.to_bytes(2, "little") for width in (64, 64, 32, 32, 64, 64, 64, 64))
CONFIGURATION = b"\1" + bytes(15) + WIDTHS + bytes(16) + bytes([8, 8, 16, 16, 16, 16, 16, 16]) + bytes(8)
needs_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="AMX is x86-64's, and so must the compiler be")


def llama_cpp() -> Path:
    """The pinned tree, as it comes."""
    script = REPOSITORY / "scripts/libllama/fetch_sdist.sh"
    done = subprocess.run([script], stdout=subprocess.PIPE, text=True, check=True)
    return next(Path(done.stdout.strip()).glob("llama_cpp_python-*/vendor/llama.cpp"))


def stored_configuration(source: str, folder: Path, compiler: str, flags: str) -> list[int | None]:
    """What ggml_tile_config_init of this source, compiled, has stored where ldtilecfg reads."""
    patterns = (r"^struct tile_config_t\{.*?^};$", r"^inline void ggml_tile_config_init\(void\).*?^}$")
    parts = [re.search(pattern, source, re.M | re.S)[0] for pattern in patterns]
    code = "\n".join(["#include <immintrin.h>", "#include <cstdint>", *parts, "void f() { ggml_tile_config_init(); }"])
    library = folder / "configure.so"
    options = [*f"-std=c++17 -O3 -DNDEBUG -fPIC -shared -nostdlib -mamx-tile -mamx-int8 {flags}".split(), "-o", library]
    subprocess.run([compiler, "-x", "c++", "-", *options], input=code, text=True, check=True)
    return stores.read_by("ldtilecfg", library)


@needs_x86
@pytest.mark.parametrize("flags", LEVELS)
@pytest.mark.parametrize("compiler", COMPILERS)
def test_whole_tile_configuration_is_stored(tmp_path, compiler, flags):
    source = changes.change(llama_cpp(), changes.AMX_PRODUCT)
    assert stored_configuration(source, tmp_path, compiler, flags) == list(CONFIGURATION)


@needs_x86
@pytest.mark.parametrize("flags", LEVELS)
def test_fault_of_gcc_11_and_12_is_seen(tmp_path, flags):
    """Else the test above could not fail."""
    command = ["c++", "-E", "-mamx-tile", "-x", "c++", "-"]
    headers = subprocess.run(command, input="#include <immintrin.h>", capture_output=True, text=True, check=True).stdout
    if "__builtin_ia32_ldtilecfg" in headers or "__builtin_ia32_tile_loadconfig" in headers:
        pytest.skip("this compiler knows how much of the configuration is read")
    stored = stored_configuration((llama_cpp() / changes.AMX_PRODUCT).read_text(), tmp_path, "c++", flags)
    assert stored[0] == 1 and stored[48:56] != list(CONFIGURATION[48:56])
