"""Build llama-server for the benchmark, from the tree and with the flags of this machine's own library set.

What is compared then differs in the server, and in what our sets change in llama.cpp's kernels (patch.py): same tree,
same compiler, same CPU flags, no OpenBLAS, and the same care that it lives on this CPU (FIXES among our changes, one
decode step, what is used instead). Lays out a set like those of build.py and prints its folder. Standard library only.
"""

import argparse
import fcntl
import hashlib
import json
import os
import platform
import shutil
from dataclasses import replace

from . import build as sets
from . import patch

TOOLS = ("llama-server", "llama-bench")


def peer_levels(cpu_flags: set[str]) -> list[list[sets.Variant]]:
    """The native set without OpenBLAS, with the peers' tools in it, and what to fall back on."""
    levels = sets.native_levels(platform.machine(), cpu_flags, has_openblas=False)
    if not levels:
        sets.die(f"no library set fits this {platform.machine()} CPU")
    return [[replace(variant, tools=TOOLS) for variant in level] for level in levels]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog="Prints the folder with llama-server.")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="compilers at a time (default %(default)s)")
    args = parser.parse_args()
    sets.require_tools(
        {"cmake": "cmake", "ninja": "ninja-build", "readelf": "binutils", "cc": "gcc", "c++": "g++"},
    )
    cpu_flags = sets.read_cpu_flags()
    levels = peer_levels(cpu_flags)
    pins = sets.read_pins((sets.REPO / "packer/versions.env").read_text())
    compiler = sets.answer("c++", "--version").splitlines()[0]
    pin, changes = pins["LLAMA_CPP_PYTHON_SHA256"], patch.key(patch.FIXES)
    recipe = [*sets.read_code(), pin, changes, compiler, sorted(cpu_flags), repr(levels)]
    home = sets.cache_root() / "peers" / hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]
    home.mkdir(parents=True, exist_ok=True)
    work = home.with_name(f".{home.name}.work")
    with home.with_name(f".{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        def make(level: list[sets.Variant]) -> None:
            sets.say("building llama-server: 10 to 20 CPU-minutes, once")
            sets.build(level, home, work, pins, None, args.jobs, edits=patch.FIXES)

        (variant,) = sets.settle(levels, home, make)
        # the binding opens its multimodal library, which examples/server asks for, by its plain name
        if not (plain := home / variant.name / "libmtmd.so").is_symlink():
            plain.symlink_to("libmtmd.so.0")
        shutil.rmtree(work, ignore_errors=True)
    print(home / variant.name)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except OSError as error:
        sets.die(str(error))
