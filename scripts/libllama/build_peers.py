"""Build llama-server for the benchmark, from the tree and with the flags of this machine's own library set.

What is compared then differs in the server, and in what our sets change in llama.cpp's kernels (patch.py):
same tree, same compiler, same CPU flags, no OpenBLAS. Lays out a set like those of build.py and prints its
folder. Standard library only.
"""

import argparse
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
from dataclasses import replace
from pathlib import Path

from . import build as sets

TOOLS = ("llama-server", "llama-bench")


def peer_variant() -> sets.Variant:
    """The native set without OpenBLAS, with the peers' tools in it."""
    cpu_flags = re.search(r"^(?:flags|Features)\s*:(.*)", Path("/proc/cpuinfo").read_text(), re.M)[1].split()
    variants = sets.native_variants(platform.machine(), set(cpu_flags), has_openblas=False)
    if not variants:
        sets.die(f"no library set fits this {platform.machine()} CPU")
    return replace(variants[0], tools=TOOLS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog="Prints the folder with llama-server.")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="compilers at a time (default %(default)s)")
    args = parser.parse_args()
    sets.require_tools(
        {"cmake": "cmake", "ninja": "ninja-build", "readelf": "binutils", "cc": "gcc", "c++": "g++"},
    )
    variant = peer_variant()
    pins = sets.read_pins((sets.REPO / "packer/versions.env").read_text())
    compiler = sets.answer("c++", "--version").splitlines()[0]
    recipe = [*sets.read_code(), pins["LLAMA_CPP_PYTHON_SHA256"], compiler, repr(variant)]
    home = sets.cache_root() / "peers" / hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]
    home.mkdir(parents=True, exist_ok=True)
    work = home.with_name(f".{home.name}.work")
    with home.with_name(f".{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / variant.name).exists():
            sets.say("building llama-server: 10 to 20 CPU-minutes, once")
            sets.build([variant], home, work, pins, None, args.jobs, is_patched=False)
            # the binding opens its multimodal library, which examples/server asks for, by its plain name
            (home / variant.name / "libmtmd.so").symlink_to("libmtmd.so.0")
        shutil.rmtree(work, ignore_errors=True)
    print(home / variant.name)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except OSError as error:
        sets.die(str(error))
