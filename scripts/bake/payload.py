"""Gather everything that goes onto an image, and pack it as the stage: the one tar that a bake uploads.

The local bake and the bake in Oracle Cloud take the same stage. Same input, same bytes, but for the time and the commit
in image.json. Knows what is on an image and where each part comes from. Knows nothing of Packer or of machines.

As a command: `python -m scripts.bake.payload --model demo --base ubuntu-22.04 --out build/stage.tar`.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from ..files import REPOSITORY, hash_file, replacing
from ..models.catalog import Model, find_model, load_catalog
from ..problem import run
from ..stage import Stages
from .base_disk import Base, choose_base, fetch_command, read_bases

UBUNTU_KEYRING = Path("/usr/share/keyrings/ubuntu-archive-keyring.gpg")
LITTER = {"__pycache__", ".pytest_cache", ".ruff_cache"}  # what tools leave beside our files
BUILD_TEMPLATE = REPOSITORY / "packer" / "local" / "build.pkr.hcl"


@dataclass(frozen=True)
class Parts:
    """What the cache holds for one image: library sets, Python packages, the model's file."""

    base: Base
    model: Model
    sets: Path
    site: Path
    model_path: Path


def read_pins() -> dict[str, str]:
    """The KEY=value lines of packer/versions.env."""
    lines = (REPOSITORY / "packer" / "versions.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def provisioners() -> list[str]:
    """The scripts the Packer template runs: the template is the one home of their order."""
    return re.findall(r'"(scripts/node/\w+\.sh)"', BUILD_TEMPLATE.read_text())


def tree_files(*roots: str) -> list[Path]:
    """The files below `roots` (paths in the repository) that go onto the image, sorted."""
    found = []
    for root in roots:
        path = REPOSITORY / root
        below = [path] if path.is_file() else path.rglob("*")
        found += [p for p in below if p.is_file() and LITTER.isdisjoint(p.parts)]
    return sorted(found)


def key_of(paths: list[Path], *words: str) -> str:
    """A short key of the files' names, modes and content, and of `words`."""
    digest = hashlib.sha256("\0".join(words).encode())
    for path in paths:
        mode = "x" if os.access(path, os.X_OK) else "-"
        digest.update(f"\0{path.relative_to(REPOSITORY)}\0{mode}\0{hash_file(path)}".encode())
    return digest.hexdigest()[:16]


def git(*words: str) -> str:
    """What git says, or "" outside a checkout."""
    answer = subprocess.run(["git", "-C", REPOSITORY, *words], capture_output=True, text=True, check=False)
    return answer.stdout.strip()


def have_disk(stages: Stages, base: Base) -> None:
    """Have the base's disk in the cache."""
    if base.disk.exists():
        stages.skip("base disk", f"in the cache ({base.name} {base.release})")
        return
    with stages.stage("base disk"):
        stages.run(fetch_command(base), "base-disk", "check the network, then run make image again")


def archive_keys(stages: Stages, base: Base) -> dict[str, str]:
    """What tells make_sysroot.sh whose packages to trust: the host's keys, else those in the verified image."""
    if not base.url or "ARCHIVE_KEYRING" in os.environ or UBUNTU_KEYRING.exists():
        return {}
    have_disk(stages, base)
    return {"ARCHIVE_KEYRING": stages.run(["bash", "scripts/libllama/find_ubuntu_keyring.sh", base.disk], "keyring")}


def gather(stages: Stages, base: Base, model: Model) -> Parts:
    """Have every part in the cache. Raises Problem when one cannot be built or fetched."""
    env = os.environ | archive_keys(stages, base)
    with stages.stage("library sets"):
        command = [sys.executable, "-m", "scripts.libllama.build", "arm64", "--suite", base.suite]
        sets = Path(stages.run(command, "library-sets", env=env))
    with stages.stage("python packages"):
        env = os.environ | {"PYTHON": sys.executable}
        command = ["bash", "scripts/bake/build_site_packages.sh", base.python]
        site = Path(stages.run(command, "python-packages", env=env))
    with stages.stage("model"):
        model_path = Path(stages.run([sys.executable, "-m", "scripts.models.fetch", model.name], "model"))
    return Parts(base, model, sets, site, model_path)


def bake_key(parts: Parts, *words: str) -> str:
    """A short key of everything that decides what is on the image; `words` add what else does."""
    inputs = tree_files("service", "packer/files", "packer/local", "scripts/lib.sh", *provisioners())
    row = json.dumps(dataclasses.asdict(parts.model))
    known = (parts.base.name, parts.sets.name, parts.site.name, row, json.dumps(read_pins()))
    return key_of(inputs, *known, *words)


def image_facts(parts: Parts, key: str) -> dict:
    """What /etc/llm/image.json tells about the image it is on."""
    pins, model = read_pins(), parts.model
    return {
        "name": "llamakiln",
        "version": pins["LLAMAKILN_VERSION"],
        "bake": key,
        "git_commit": git("rev-parse", "HEAD"),
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "base": {"name": parts.base.name, "release": parts.base.release},
        "model": {
            "name": model.name,
            "file": model.file_name,
            "sha256": model.sha256,
            "bytes": model.bytes,
            "license": model.license,
            "context": model.context,
            "settings": dict(model.settings),
        },
        "llama_cpp_python": pins["LLAMA_CPP_PYTHON_VERSION"],
        "llama_cpp_commit": pins["LLAMA_CPP_COMMIT"],
        "library_sets": sorted(path.parent.name for path in parts.sets.glob("*/set.json")),
    }


def write_stage(path: Path, parts: Parts, facts: dict) -> None:
    """Tar everything the image gets, as root's, in a fixed order and with no times."""
    model = parts.model
    settings = {"MODEL_NAME": model.name, "MODEL_FILE": model.file_name}
    settings |= {"MODEL_SHA256": model.sha256, "MODEL_CONTEXT": str(model.context)}
    settings["MODEL_SETTINGS"] = "'" + " ".join(f"{name}={value}" for name, value in model.settings.items()) + "'"
    trees = {
        "service": REPOSITORY / "service",
        "files": REPOSITORY / "packer" / "files",
        "scripts/lib.sh": REPOSITORY / "scripts" / "lib.sh",
        "lib": parts.sets,
        "site": parts.site,
        f"model/{model.file_name}": parts.model_path,
    }
    texts = {
        "bake.env": "".join(f"{name}={value}\n" for name, value in settings.items()),
        "image.json": json.dumps(facts, indent=2) + "\n",
    }

    def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if not LITTER.isdisjoint(member.name.split("/")):
            return None
        member.uid = member.gid = member.mtime = 0
        member.uname = member.gname = "root"
        return member

    with replacing(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, source in sorted(trees.items()):
            tar.add(source, name, filter=anonymous)
        for name, text in sorted(texts.items()):
            source = path.with_name(name)
            source.write_text(text)
            tar.add(source, name, filter=anonymous)
            source.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo", help="a name in packer/models.toml (default: %(default)s)")
    parser.add_argument("--base", default="ubuntu-22.04", help="a name in packer/bases.toml (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the tar to write")
    arguments = parser.parse_args()
    os.chdir(REPOSITORY)
    base, _ = choose_base(arguments.base, read_bases())
    parts = gather(Stages(REPOSITORY / "build" / "logs"), base, find_model(arguments.model, load_catalog()))
    write_stage(arguments.out.absolute(), parts, image_facts(parts, bake_key(parts)))
    print(arguments.out)


if __name__ == "__main__":
    run(main)
