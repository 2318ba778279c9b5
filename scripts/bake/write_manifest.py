"""Write manifest.json, what an image was made of and from, and SHA256SUMS beside it.

Takes the bake's facts as JSON (who bakes knows them) and finds out the rest: git commit, model row, checksums, sizes,
virtual disk size. Knows the shape of a manifest and refuses a missing, misspelled or wrong-typed fact by name. Knows
nothing of how an image is baked, booted or packed.

Facts (`--facts FILE`, or `-` for stdin); * may be left out:
  version          "0.1.0", as in packer/versions.env
  model            "demo", a row of packer/models.toml
  base             {"name": "ubuntu-22.04", "release": "20261115", "sha256": "...", *"reason": "why not another"}
  library_sets     [the content of each lib/<set>/set.json on the image]
  python_lock      "service/requirements.txt", a path in this repository: its sha256 is recorded
  tools            {"packer": "1.6.6", "qemu": "7.2.22", ...}
  stages           [{"name": "libllama", "seconds": 315.2, *"is_cached": false}, ...] in the order they ran
  *boot            the boot report: figures by name, seconds; null where the image was not booted
  *sdist_sha256    of the llama-cpp-python source distribution

The manifest:
  schema 1; version, created (UTC; SOURCE_DATE_EPOCH wins over the clock); git {commit, is_dirty} or null outside a
  repository; model {the row}; base, library_sets, tools, stages, boot as given; total_seconds; python_lock {path,
  sha256}; files [{name, bytes, sha256, *virtual_bytes of a qcow2}] in the order given.
SHA256SUMS names those files and manifest.json, for `sha256sum -c` in their folder.
Exit codes: 0 done, 1 a problem (told on stderr), 2 wrong command line.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..files import REPOSITORY, hash_file, replacing
from ..models import catalog
from ..problem import Problem, run
from .qcow2 import virtual_bytes

SCHEMA = 1
_NUMBER = (int, float)
# fact -> (type, is it required?)
FACTS: dict[str, tuple[type | tuple[type, ...], bool]] = {
    "version": (str, True),
    "model": (str, True),
    "base": (dict, True),
    "library_sets": (list, True),
    "python_lock": (str, True),
    "tools": (dict, True),
    "stages": (list, True),
    "boot": ((dict, type(None)), False),
    "sdist_sha256": (str, False),
}
BASE = {"name": (str, True), "release": (str, True), "sha256": (str, True), "reason": (str, False)}
LIBRARY_SET = {"name": (str, True), "llama_cpp_commit": (str, True)}
STAGE = {"name": (str, True), "seconds": (_NUMBER, True), "is_cached": (bool, False)}


def _check(where: str, given: object, shape: Mapping[str, tuple], has_more: bool = False) -> list[str]:
    """What is wrong with the object `given` against `shape`; `has_more` lets other keys pass."""
    if not isinstance(given, Mapping):
        return [f"{where}: must be an object, not {given!r}"]
    faults = []
    for key, (kind, is_required) in shape.items():
        kinds = kind if isinstance(kind, tuple) else (kind,)
        allowed = " or ".join("null" if k is type(None) else k.__name__ for k in kinds)
        if key not in given:
            faults += [f"{where}{key}: missing; must be {allowed}"] if is_required else []
        elif not isinstance(given[key], kinds) or (isinstance(given[key], bool) and bool not in kinds):
            faults.append(f"{where}{key} = {given[key]!r}: must be {allowed}")
    if not has_more:
        faults += [f"{where}{key}: unknown; allowed are {', '.join(shape)}" for key in given if key not in shape]
    return faults


def check_facts(facts: object) -> dict:
    """Return `facts` when they have the documented shape; raises Problem listing every fault."""
    faults = _check("", facts, FACTS)
    if isinstance(facts, dict):
        faults += _check("base.", facts["base"], BASE) if isinstance(facts.get("base"), dict) else []
        for key, shape in (("library_sets", LIBRARY_SET), ("stages", STAGE)):
            entries = facts.get(key) if isinstance(facts.get(key), list) else []
            for index, entry in enumerate(entries):
                faults += _check(f"{key}[{index}].", entry, shape, has_more=key == "library_sets")
    if faults:
        raise Problem("facts for the manifest:\n  " + "\n  ".join(faults), "see write_manifest.py --help")
    return dict(facts)  # type: ignore[call-overload]


def git_state(folder: Path = REPOSITORY) -> dict | None:
    """The commit baked from and whether the tree differed from it; None where there is no repository."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    try:
        return {"commit": git("rev-parse", "HEAD").strip(), "is_dirty": bool(git("status", "--porcelain").strip())}
    except (OSError, subprocess.CalledProcessError):
        return None


def creation_time() -> str:
    """Now, or SOURCE_DATE_EPOCH, as UTC in ISO 8601."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    if epoch and not epoch.isdigit():
        raise Problem(f"SOURCE_DATE_EPOCH={epoch}: must be a whole number of seconds since 1970")
    utc = datetime.timezone.utc
    moment = datetime.datetime.fromtimestamp(int(epoch), utc) if epoch else datetime.datetime.now(utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _describe(file: Path) -> dict:
    entry = {"name": file.name, "bytes": file.stat().st_size, "sha256": hash_file(file)}
    return {**entry, "virtual_bytes": virtual_bytes(file)} if file.suffix == ".qcow2" else entry


def build_manifest(facts: object, files: Sequence[Path], models: Mapping[str, catalog.Model]) -> dict:
    """The manifest as a dict; hashes every file; raises Problem."""
    given = check_facts(facts)
    lock = REPOSITORY / given["python_lock"]
    for file in (lock, *files):
        if not file.is_file():
            raise Problem(f"{file}: no such file")
    model = dataclasses.asdict(catalog.find_model(given["model"], models))
    return {
        "schema": SCHEMA,
        "version": given["version"],
        "created": creation_time(),
        "git": git_state(),
        "model": {field: value for field, value in model.items() if value != ""},
        "base": given["base"],
        "library_sets": given["library_sets"],
        "sdist_sha256": given.get("sdist_sha256"),
        "python_lock": {"path": given["python_lock"], "sha256": hash_file(lock)},
        "tools": given["tools"],
        "stages": given["stages"],
        "total_seconds": round(sum(stage["seconds"] for stage in given["stages"]), 1),
        "boot": given.get("boot"),
        "files": [_describe(file) for file in files],
    }


def write(manifest: dict, folder: Path) -> None:
    """Write manifest.json and SHA256SUMS into `folder`, where the manifest's files are."""
    with replacing(folder / "manifest.json") as out:
        out.write(json.dumps(manifest, indent=2).encode() + b"\n")
    sums = {entry["name"]: entry["sha256"] for entry in manifest["files"]}
    sums["manifest.json"] = hash_file(folder / "manifest.json")
    with replacing(folder / "SHA256SUMS") as out:
        out.write("".join(f"{sha256}  {name}\n" for name, sha256 in sums.items()).encode())


def read_facts(source: str) -> object:
    """The JSON in the file `source`, or on stdin for '-'; raises Problem."""
    try:
        return json.loads(sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Problem(f"cannot read the facts from {source}: {error}") from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--facts", required=True, metavar="FILE", help="the bake's facts as JSON, - for stdin")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="the folder of the image's files")
    parser.add_argument("--catalog", type=Path, default=catalog.CATALOG, help="default: %(default)s")
    parser.add_argument("files", nargs="+", help="names of files in DIR: qcow2, oci, SBOM")
    options = parser.parse_args()
    for name in options.files:
        if "/" in name:
            raise Problem(f"{name}: must be the bare name of a file in {options.out}")
    files = [options.out / name for name in options.files]
    manifest = build_manifest(read_facts(options.facts), files, catalog.load_catalog(options.catalog))
    write(manifest, options.out)
    print(options.out / "manifest.json")


if __name__ == "__main__":
    run(main)
