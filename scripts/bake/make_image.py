"""Bake the image: `make image [MODEL=demo] [BASE=auto]`.

Base disk, library sets, Python packages, model -> Packer -> boot tests -> packed files. Each step's result is kept in
the cache under a key of everything that went into it, so a bake that was stopped goes on from what is done, and one
that was already baked and tested is only packed again. Files appear in build/ complete or not at all.
Knows the order of the steps and what feeds which. How a step is done is the business of the script it calls.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from ..files import REPOSITORY, cache_root, hash_file, human_size
from ..models.catalog import Model, find_model, load_catalog
from ..problem import Problem, run
from ..stage import Stages
from .base_disk import Base, choose_base, read_bases
from .payload import Parts, bake_key, gather, have_disk, image_facts, key_of, read_pins, tree_files, write_stage
from .probe_kvm import choose_accelerator, find_firmware

BUILD = REPOSITORY / "build"
# Base, Packer's copy, overlays and packed files of a demo bake take 4 GB together; the rest is room for caches.
NEEDED_FREE_BYTES = 8 * 10**9
KEPT_BAKES = 2
GIB = 2**30
# The files of this folder that boot an image and test it.
MACHINE = ("test_image", "vm", "qemu", "seed", "access", "imds", "probe_kvm")


def check_machine() -> None:
    """Stop before hours of work rather than after them: disk space, and the tools the steps call."""
    root = cache_root()
    root.mkdir(parents=True, exist_ok=True)
    BUILD.mkdir(exist_ok=True)
    for path in {root, BUILD}:
        free = shutil.disk_usage(path).free
        if free < NEEDED_FREE_BYTES:
            raise Problem(
                f"{path} has {human_size(free)} free; a bake needs {human_size(NEEDED_FREE_BYTES)}",
                f"free some space (old bakes are in {root}), or LLAMAKILN_CACHE=/a/larger/disk make image",
            )
    for tool in ("qemu-system-aarch64", "qemu-img", "ssh-keygen", "curl"):
        if not shutil.which(tool):
            raise Problem(f"{tool} is not installed", "bash scripts/setup/host_packages.sh image")


def find_packer() -> str:
    """The Packer of the local bake: PACKER or the installed one. Raises Problem if it has no QEMU builder."""
    packer = os.environ.get("PACKER") or shutil.which("packer") or ""
    if not packer:
        raise Problem(
            "Packer is not installed and this distribution has none",
            "install it from HashiCorp (developer.hashicorp.com/packer/install), then `packer plugins install "
            "github.com/hashicorp/qemu`, or PACKER=/path/to/packer make image",
        )
    command = [packer, "validate", "-syntax-only", "packer/local"]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    if answer.returncode:
        raise Problem(
            f"{packer} cannot read packer/local:\n{answer.stdout}{answer.stderr}",
            f"with Packer 1.7 or newer: {packer} plugins install github.com/hashicorp/qemu",
        )
    return packer


def write_seed(directory: Path) -> Path:
    """A NoCloud seed that lets the bake in by a key of its own; returns the private key's path."""
    directory.mkdir(parents=True, exist_ok=True)
    key = directory / "id_ed25519"
    key.unlink(missing_ok=True)
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "llamakiln-bake", "-f", key]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    public = key.with_name(key.name + ".pub").read_text().strip()
    (directory / "meta-data").write_text("instance-id: llamakiln-bake\nlocal-hostname: llamakiln-bake\n")
    (directory / "user-data").write_text(
        f"#cloud-config\nssh_authorized_keys: [{json.dumps(public)}]\npackage_update: false\npackage_upgrade: false\n"
        "ssh_genkeytypes: [ed25519]\nlocale: false\n"
    )
    return key


def bake(stages: Stages, parts: Parts, packer: str) -> Path:
    """Run Packer, or find its result in the cache: a directory with node.qcow2, inventory/, sets/ and image.json."""
    base, model = parts.base, parts.model
    key = bake_key(parts, hash_file(base.disk))
    out = cache_root() / "baked" / f"{model.name}-{base.name}-{key}"
    if out.exists():
        stages.skip("image", f"already baked ({out.name})")
        return out

    work = BUILD / "bake"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    accelerator, reason = choose_accelerator()
    stages.say(f"accelerator: {accelerator}, {reason}")
    with stages.stage("staging"):
        facts = image_facts(parts, key)
        write_stage(work / "stage.tar", parts, facts)
        key_file = write_seed(work / "seed")
    variables = {
        "base_image": base.disk,
        "base_sha256": hash_file(base.disk),
        "stage_tar": work / "stage.tar",
        "output_directory": work / "output",
        "inventory_directory": work / "inventory",
        "disk_size": f"{5 + -(-model.bytes // GIB)}G",
        "accelerator": accelerator,
        "cpu": "host" if accelerator == "kvm" else "neoverse-n1",
        "cpus": max(2, min(4, os.cpu_count() or 2)),
        "firmware": find_firmware(),
        "serial_log": stages.log_directory / "bake-serial.log",
        "seed_directory": work / "seed",
        "ssh_username": base.user,
        "ssh_private_key_file": key_file,
    }
    (work / "inventory").mkdir()
    command = [packer, "build", "-color=false"]
    for name, value in variables.items():
        command += ["-var", f"{name}={value}"]
    env = os.environ | {"PACKER_CACHE_DIR": str(work / "packer-cache"), "CHECKPOINT_DISABLE": "1", "TMPDIR": str(work)}
    with stages.stage("image: Packer"):
        os.chdir(REPOSITORY)
        stages.run(
            [*command, "packer/local"],
            "packer",
            f"read packer.log and bake-serial.log in {stages.log_directory}; make image again goes on from here",
            env,
        )
    with stages.stage("image: compress"):
        disk = work / "output" / "node.qcow2"
        stages.run(["qemu-img", "convert", "-O", "qcow2", "-c", "-W", "-m", "4", disk, work / "node.qcow2"], "compress")
        part = out.with_name(out.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        shutil.move(work / "node.qcow2", part / "node.qcow2")
        shutil.move(work / "inventory", part / "inventory")
        (part / "sets").mkdir()
        for path in parts.sets.glob("*/set.json"):
            shutil.copy(path, part / "sets" / f"{path.parent.name}.json")
        (part / "image.json").write_text(json.dumps(facts, indent=2) + "\n")
        part.rename(out)
        shutil.rmtree(work)
    forget_old_bakes(out)
    return out


def forget_old_bakes(newest: Path) -> None:
    """Keep the disk in bounds: only the last bakes stay in the cache."""
    others = sorted((p for p in newest.parent.iterdir() if p != newest), key=lambda p: p.stat().st_mtime, reverse=True)
    for path in others[KEPT_BAKES - 1 :]:
        shutil.rmtree(path)


def test(stages: Stages, baked: Path) -> Path:
    """Boot fresh copies and test them, unless these tests passed for this bake before; returns the boot report."""
    tools = (f"scripts/bake/{name}.py" for name in MACHINE)
    key = key_of(tree_files("tests/image", "tests/libllama/kernels.py", "scripts/problem.py", *tools))
    report = baked / f"boot-{key}.json"
    if report.exists():
        stages.skip("boot tests", "passed before for this very image and these tests")
        return report
    with stages.stage("boot tests"):
        part = report.with_suffix(".part")
        stages.run(
            [sys.executable, "-m", "scripts.bake.test_image", baked / "node.qcow2", "--report", part],
            "boot-tests",
            "the image is kept; run make image again to repeat only the tests",
        )
        part.rename(report)
    return report


def tool_version(*command: str) -> str:
    """The first version number a tool prints, or "unknown"."""
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"\d+(\.\d+)+", answer.stdout)
    return found[0] if found else "unknown"


def pack(stages: Stages, base: Base, reason: str, model: Model, baked: Path, report: Path, packer: str) -> None:
    """Write the files of the image to build/: qcow2, .oci, SBOM, manifest and checksums, all of them or none."""
    pins = read_pins()
    name = f"llamakiln-{model.name}-{pins['LLAMAKILN_VERSION']}-arm64"
    part = BUILD / "pack"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    with stages.stage("packing"):
        shutil.copy2(baked / "node.qcow2", part / f"{name}.qcow2")
        distribution, _, release = base.name.partition("-")
        command = ["-m", "scripts.bake.pack_oci", part / f"{name}.qcow2", part / f"{name}.oci"]
        command += ["--os-name", distribution.capitalize(), "--os-version", release]
        stages.run([sys.executable, *command], "pack-oci")
        sets = sorted((baked / "sets").glob("*.json"))
        # Packer's versions differ in whether a downloaded folder arrives as itself or as its content.
        inventory = next((baked / "inventory").rglob("dpkg.tsv")).parent
        command = ["-m", "scripts.bake.write_sbom", "--version", pins["LLAMAKILN_VERSION"], "--base", base.name]
        command += ["--model", model.name, "--dpkg", inventory / "dpkg.tsv"]
        command += ["--pip", inventory / "pip.json", "--sets", *sets, "--out", part / f"{name}.cdx.json"]
        stages.run([sys.executable, *command], "sbom")
    facts = {
        "version": pins["LLAMAKILN_VERSION"],
        "model": model.name,
        "base": {"name": base.name, "release": base.release, "sha256": hash_file(base.disk), "reason": reason},
        "library_sets": [json.loads(path.read_text()) for path in sets],
        "python_lock": "service/requirements.txt",
        "sdist_sha256": pins["LLAMA_CPP_PYTHON_SHA256"],
        "tools": {"packer": tool_version(packer, "version"), "qemu": tool_version("qemu-system-aarch64", "--version")},
        "stages": stages.done,
        "boot": json.loads(report.read_text()),
    }
    (BUILD / "logs" / "facts.json").write_text(json.dumps(facts, indent=2))
    command = ["-m", "scripts.bake.write_manifest", "--facts", BUILD / "logs" / "facts.json", "--out", part]
    stages.run([sys.executable, *command, f"{name}.qcow2", f"{name}.oci", f"{name}.cdx.json"], "manifest")
    for path in sorted(part.iterdir()):
        path.replace(BUILD / path.name)
        stages.say(f"  build/{path.name}  {human_size((BUILD / path.name).stat().st_size)}")
    part.rmdir()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo", help="a name in packer/models.toml (default: %(default)s)")
    parser.add_argument("--base", default="auto", help="auto or a name in packer/bases.toml (default: %(default)s)")
    arguments = parser.parse_args()

    os.chdir(REPOSITORY)
    stages = Stages(BUILD / "logs")
    model = find_model(arguments.model, load_catalog())
    base, reason = choose_base(arguments.base, read_bases())
    check_machine()
    stages.say(f"baking {model.name} on {base.name}: {reason}")

    have_disk(stages, base)
    parts = gather(stages, base, model)
    packer = find_packer()
    baked = bake(stages, parts, packer)
    report = test(stages, baked)
    pack(stages, base, reason, model, baked, report, packer)
    stages.say("done")


if __name__ == "__main__":
    run(main)
