"""As much of a llama.cpp as scripts/libllama/patch.py looks at."""

from pathlib import Path

from scripts.libllama.patch import EDITS


def write_tree(folder: Path) -> Path:
    for file in {edit.file for edit in EDITS}:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        found = "// next\n".join(edit.found for edit in EDITS if edit.file == file)
        (folder / file).write_text(f"// first\n{found}// last\n")
    (folder / "CMakeLists.txt").write_text("project(llama)\n")
    return folder
