"""Check rm-stack/ and pack it as build/llamakiln-stack.zip, which Resource Manager makes a stack from.

The zip holds what runs and nothing else: .tf files, templates and schema.yaml, at its root. The same files give the
same bytes: sorted, one fixed time, one mode, and stored, not deflated, because zlib's releases differ in their output.
Knows the form's rules by form.py. Runs no Terraform: `make test` does.
Exit codes: 0 done, 1 a problem (told on stderr), 2 wrong command line.
"""

from __future__ import annotations

import argparse
import hashlib
import zipfile
from pathlib import Path

from ..files import REPOSITORY, replacing
from ..problem import Problem, run
from .form import faults

MAX_BYTES = 11 * 1024 * 1024  # Resource Manager's limit
FIRST_TIME = (1980, 1, 1, 0, 0, 0)  # a zip knows none before it
MODE = 0o100644 << 16


def stack_files(folder: Path) -> list[Path]:
    """What runs, sorted by name. State, plans, lock files and .terraform stay out."""
    return sorted(file for file in folder.iterdir() if file.suffix in (".tf", ".tftpl") or file.name == "schema.yaml")


def pack(folder: Path, target: Path) -> int:
    """Write the zip; returns its size in bytes. Raises Problem when the form has faults or the zip is too large."""
    if found := faults(folder):
        raise Problem("the form does not fit the code:\n  " + "\n  ".join(found), f"correct {folder / 'schema.yaml'}")
    with replacing(target) as part:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
            for file in stack_files(folder):
                entry = zipfile.ZipInfo(file.name, FIRST_TIME)
                entry.create_system = 3  # Unix, on every machine
                entry.external_attr = MODE
                archive.writestr(entry, file.read_bytes())
        n_bytes = part.tell()
        if n_bytes > MAX_BYTES:
            raise Problem(
                f"the zip has {n_bytes} bytes, Resource Manager takes at most {MAX_BYTES}", "shorten rm-stack/"
            )
    return n_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "rm-stack")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "build" / "llamakiln-stack.zip")
    arguments = parser.parse_args()
    n_bytes = pack(arguments.folder, arguments.output)
    sha256 = hashlib.sha256(arguments.output.read_bytes()).hexdigest()
    print(f"{arguments.output}: {n_bytes:,} bytes, sha256 {sha256}")


if __name__ == "__main__":
    run(main)
