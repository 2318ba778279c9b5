"""Bring a model of the catalogue to this machine and prove that it is the pinned one.

Prints the file's path as the last line of stdout; everything else goes to stderr. A file appears under its final name,
<cache>/models/<sha256>/<file>, only when size and sha256 are right; until then it is <file>.part beside it, and the
next run goes on from there. A file that is already there is checked again without any request. Rows with a `path` live
in this repository and are only checked.

Honours LLAMAKILN_CACHE, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE. Knows nothing of what is inside a GGUF.
Exit codes: 0 done, 1 a problem (told on stderr), 2 wrong command line.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import sys
from pathlib import Path

from ..files import CHUNK_BYTES, REPOSITORY, cache_root, hash_file, human_size, replacing
from ..problem import Problem, run
from ..progress import Progress
from . import catalog


def fault_of(file: Path, model: catalog.Model) -> str:
    """What is wrong with `file` as this model, or ''."""
    size = file.stat().st_size
    if size != model.bytes:
        return f"has {size} bytes, expected {model.bytes}"
    progress = Progress(f"checking {file.name}", size)
    sha256 = hash_file(file, progress.add)
    progress.close()
    if sha256 != model.sha256:
        return f"has sha256 {sha256}, expected {model.sha256}"
    return ""


def verify(file: Path, model: catalog.Model) -> Path:
    """Return `file` when it is this model; raises Problem."""
    if not file.is_file():
        raise Problem(f"{file}: no such file")
    if fault := fault_of(file, model):
        raise Problem(f"{file} is not {model.name}: it {fault}")
    return file


def _require_space(folder: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise Problem(
            f"{folder} has {human_size(free)} free and this needs {human_size(needed_bytes)}",
            "free some space, or set LLAMAKILN_CACHE to a larger disk",
        )


def fetch(model: catalog.Model, tries: int | None = None) -> Path:
    """The path of a checked local copy of `model`, downloading what is missing; raises Problem."""
    if model.path:
        return verify(REPOSITORY / model.path, model)
    folder = cache_root() / "models" / model.sha256
    final, part = folder / model.file_name, folder / (model.file_name + ".part")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two fetches appending to one part would spoil it
        if final.exists():
            fault = fault_of(final, model)
            if not fault:
                return final
            print(f"{final} {fault}: removed, fetching it again", file=sys.stderr)
            final.unlink()
        part.touch()
        have = part.stat().st_size
        _require_space(folder, model.bytes - have)
        _download(model, part, have, tries)
        if fault := fault_of(part, model):
            part.unlink()
            raise Problem(
                f"{model.file} from {model.repo} at {model.revision} {fault}; the bad file was removed",
                "run again; if it repeats, the row in packer/models.toml is wrong or HF_ENDPOINT is no true mirror",
            )
        part.chmod(0o644)
        part.replace(final)
    return final


def _download(model: catalog.Model, part: Path, have: int, tries: int | None) -> None:
    from . import hub

    progress = Progress(model.name, model.bytes, have)
    if have:
        print(f"{model.name}: going on after {human_size(have)}", file=sys.stderr)
    try:
        hub.download(
            model.repo,
            model.revision,
            model.file,
            part,
            model.bytes,
            model.sha256,
            progress.add,
            tries=hub.DEFAULT_TRIES if tries is None else tries,
        )
    finally:
        progress.close()


def copy_to(folder: Path, file: Path) -> Path:
    """Copy `file` into `folder` in one visible step; a copy of the same size and time stays as it is."""
    target = folder / file.name
    source = file.stat()
    if target.exists():
        there = target.stat()
        if (there.st_size, there.st_mtime_ns) == (source.st_size, source.st_mtime_ns):
            return target
    folder.mkdir(parents=True, exist_ok=True)
    _require_space(folder, source.st_size)
    with replacing(target) as out, file.open("rb") as data:
        shutil.copyfileobj(data, out, CHUNK_BYTES)
    os.utime(target, ns=(source.st_atime_ns, source.st_mtime_ns))
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="a row of packer/models.toml, for example demo")
    parser.add_argument("--out", type=Path, metavar="DIR", help="also copy it to DIR and print that path")
    parser.add_argument("--verify", type=Path, metavar="FILE", help="only check that FILE is this model; no network")
    parser.add_argument("--tries", type=int, metavar="N", help="attempts in a row without a new byte (default: 5)")
    parser.add_argument("--catalog", type=Path, default=catalog.CATALOG, help="default: %(default)s")
    options = parser.parse_args()
    if options.tries is not None and options.tries < 1:
        parser.error(f"--tries {options.tries}: must be at least 1")
    model = catalog.find_model(options.name, catalog.load_catalog(options.catalog))
    file = verify(options.verify, model) if options.verify else fetch(model, options.tries)
    print(copy_to(options.out, file) if options.out else file)


if __name__ == "__main__":
    run(main)
