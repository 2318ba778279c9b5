#!/usr/bin/env python3
"""Build the llama.cpp library sets from the tree inside the pinned llama-cpp-python source distribution.

`arm64` builds what the image carries: two CPU levels (A2 and A1), each with and without OpenBLAS, with clang against the
sysroot of the image's release, on any host. `native` builds for this very machine, for `make run`. A set is a folder with
libllama, what it needs, llama-bench, llama-cli and set.json; service/library.py picks one of them by reading set.json.

Only libggml-cpu depends on CPU flags, and only libggml and libggml-blas on OpenBLAS. So all sets of a target come out of one
build folder that is configured anew for each: ninja compiles again only what the change touches. Sets are cached under a key
of everything that goes into them, so presence means complete. Standard library only: runs before any venv exists.
"""

import argparse
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

REPO = Path(__file__).resolve().parent.parent
LOG_TAIL_LINES = 30
PROGRESS_EVERY_S = 20

# What the compiler may use without being asked at that level, as /proc/cpuinfo spells it.
A1_FEATURES = ("asimd", "asimddp", "asimdhp", "asimdrdm", "atomics", "crc32", "fphp")
A2_FEATURES = (*A1_FEATURES, "bf16", "i8mm", "ilrcpc", "lrcpc")
# The instruction sets ggml has kernels for on x86-64; `native` needs those of them that this machine has.
X86_FEATURES = (
    "amx_bf16 amx_int8 amx_tile avx avx2 avx512_bf16 avx512_vbmi2 avx512_vnni avx512bw avx512cd avx512dq avx512f "
    "avx512vbmi avx512vl avx_vnni bmi1 bmi2 f16c fma sse4_1 sse4_2 ssse3"
).split()

# No OpenMP: ggml's own thread pool does the same work, and the image needs no second runtime library.
# No server UI, TLS or subprocesses: llama-cli brings the server's code along, and none of these has use on a node.
# An empty GIT_EXE keeps ggml from asking git for a commit: the pinned one is handed in and read back at start-up.
OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "CMAKE_BUILD_WITH_INSTALL_RPATH": "ON",
    "CMAKE_INSTALL_RPATH": "$ORIGIN",
    "BUILD_SHARED_LIBS": "ON",
    "GGML_BACKEND_DL": "OFF",
    "GGML_CCACHE": "OFF",
    "GGML_OPENMP": "OFF",
    "GIT_EXE": "",
    "LLAMA_ALL_WARNINGS": "OFF",
    "LLAMA_BUILD_APP": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_NUMBER": "0",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_OPENSSL": "OFF",
    "LLAMA_SUBPROCESS": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",
}
ROOTS = ("libllama.so", "llama-bench", "llama-cli")


@dataclass(frozen=True)
class Variant:
    """One set to build: `options` are its own CMake options, `has_smmla` whether its CPU code must hold i8mm products."""

    name: str
    machine: str
    rank: int
    blas: bool
    features: Sequence[str]
    options: dict[str, str]
    has_smmla: bool | None = None


@dataclass(frozen=True)
class Elf:
    """What one file asks of others: `versions` maps a library to the symbol versions taken from it."""

    soname: str
    needed: list[str]
    versions: dict[str, set[str]] = field(default_factory=dict)
    defines: set[str] = field(default_factory=set)


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def die(message: str, way_out: str = "") -> NoReturn:
    say(f"error: {message}" + (f"\n  try: {way_out}" if way_out else ""))
    raise SystemExit(1)


def read_pins(text: str) -> dict[str, str]:
    """The KEY=value lines of packer/versions.env."""
    return dict(re.findall(r"^([A-Z_0-9]+)=(\S*)$", text, re.M))


def answer(*command: str | Path) -> str:
    """Standard output of a command that must succeed; its complaints go to the person."""
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(done.returncode)
    return done.stdout.strip()


def require_tools(packages: dict[str, str]) -> None:
    missing = sorted({package for tool, package in packages.items() if not shutil.which(tool)})
    if missing:
        die(f"build tools are missing: {', '.join(missing)}", f"apt-get install {' '.join(missing)}")


def find_openblas(root: Path, machine: str) -> dict[str, str]:
    """CMake options for the OpenBLAS below `root`, or {}. Named outright: the links CMake looks for are made by
    installing the package, and a sysroot is only unpacked."""
    for library in sorted(root.glob(f"usr/lib/{machine}-linux-gnu/openblas-*/libopenblas.so")):
        include = root / f"usr/include/{machine}-linux-gnu" / library.parent.name
        if (include / "cblas.h").exists():
            return {"BLAS_LIBRARIES": str(library), "BLAS_INCLUDE_DIRS": str(include), "GGML_BLAS_VENDOR": "OpenBLAS"}
    return {}


def arm64_variants(openblas: dict[str, str]) -> list[Variant]:
    """The image's sets, each one option away from the one before it."""
    a1 = {"GGML_NATIVE": "OFF", "GGML_CPU_ARM_ARCH": "armv8.2-a+dotprod+fp16"}
    a2 = {"GGML_NATIVE": "OFF", "GGML_CPU_ARM_ARCH": "armv8.6-a+dotprod+fp16+i8mm+bf16"}
    off, on = {"GGML_BLAS": "OFF"}, {"GGML_BLAS": "ON", **openblas}
    return [
        Variant("arm64-a1", "aarch64", 1, False, A1_FEATURES, {**a1, **off}, has_smmla=False),
        Variant("arm64-a1-blas", "aarch64", 1, True, A1_FEATURES, {**a1, **on}, has_smmla=False),
        Variant("arm64-a2-blas", "aarch64", 2, True, A2_FEATURES, {**a2, **on}, has_smmla=True),
        Variant("arm64-a2", "aarch64", 2, False, A2_FEATURES, {**a2, **off}, has_smmla=True),
    ]


def native_variants(cpu_flags: set[str], openblas: dict[str, str]) -> list[Variant]:
    """The x86-64 sets for this machine; the one with OpenBLAS only if the host has its development files."""
    features = [name for name in X86_FEATURES if name in cpu_flags]
    options = {"GGML_NATIVE": "ON", "GGML_BLAS": "OFF"}
    sets = [Variant("x86-64-native", "x86_64", 1, False, features, options)]
    if openblas:
        options = {"GGML_NATIVE": "ON", "GGML_BLAS": "ON", **openblas}
        sets.append(Variant("x86-64-native-blas", "x86_64", 1, True, features, options))
    return sets


def read_elf(path: Path) -> Elf:
    text = subprocess.run(
        ["readelf", "-dVW", path], check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "LC_ALL": "C"}
    ).stdout
    return parse_elf(text)


def parse_elf(text: str) -> Elf:
    """Read what `readelf -dVW` prints."""
    soname = "".join(re.findall(r"\(SONAME\).*\[(.*)\]", text)[:1])
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", text)
    defines, versions, library, section = set(), {}, "", ""
    for line in text.splitlines():
        if line.startswith("Version "):
            section = line.split()[1]
        elif section == "needs" and (found := re.search(r"File: (\S+)", line)):
            library = found[1]
            versions[library] = set()
        elif found := re.search(r"Name: (\S+)", line):
            if section == "needs":
                versions[library].add(found[1])
            elif section == "definition":
                defines.add(found[1])
    return Elf(soname, needed, versions, defines)


def collect(bin_dir: Path) -> dict[str, Path]:
    """Name -> file of the roots and of all their libraries that were built here, each under the name loaders ask for."""
    files: dict[str, Path] = {}
    todo = list(ROOTS)
    while todo:
        name = todo.pop()
        path = bin_dir / name
        if name in files or not path.exists():
            continue
        elf = read_elf(path)
        files[elf.soname or name] = path.resolve()
        todo += elf.needed
    missing = [name for name in ROOTS if not (bin_dir / name).exists()]
    if missing:
        die(f"the build made no {', '.join(missing)} in {bin_dir}")
    return files


def check_needs(files: dict[str, Path], sysroot: Path) -> str:
    """Stop if a file needs a library or symbol version that the sysroot's release lacks; say the highest ones needed."""
    offers: dict[str, Elf] = {}
    highest: dict[str, tuple[int, ...]] = {}
    for name, path in files.items():
        elf = read_elf(path)
        for library in elf.needed:
            if library in files:
                continue
            if library not in offers:
                found = sorted(sysroot.glob(f"**/{library}"))
                if not found:
                    die(f"{name} needs {library}, which {sysroot.name} does not have")
                offers[library] = read_elf(found[0])
            wanted = elf.versions.get(library, set())
            if too_new := wanted - offers[library].defines:
                die(f"{name} needs {', '.join(sorted(too_new))} of {library}, which {sysroot.name} does not have")
            for version in wanted:
                if found := re.fullmatch(r"(GLIBC|GLIBCXX)_([\d.]+)", version):
                    number = tuple(map(int, found[2].split(".")))
                    highest[found[1]] = max(highest.get(found[1], ()), number)
    return ", ".join(f"{kind} {'.'.join(map(str, number))}" for kind, number in sorted(highest.items()))


def has_smmla(code: bytes) -> bool:
    """Whether AArch64 code holds SMMLA Vd.4S, Vn.16B, Vm.16B (Arm ARM, C7.2): the 8-bit matrix product of i8mm."""
    words = memoryview(code[: len(code) // 4 * 4]).cast("I")
    return any(word & 0xFFE0FC00 == 0x4E80A400 for word in words)


def text_section(path: Path) -> bytes:
    table = subprocess.run(["readelf", "-SW", path], check=True, stdout=subprocess.PIPE, text=True).stdout
    _, offset, size = (int(n, 16) for n in re.search(r" \.text\s+PROGBITS\s+(\w+) (\w+) (\w+)", table).groups())
    return path.read_bytes()[offset : offset + size]


def run_logged(title: str, command: Sequence[str | Path], log: Path) -> None:
    """Run with output to `log`; say how far ninja is now and then; on failure show the end of the log and stop."""
    began = said = time.monotonic()
    with log.open("a") as out:
        out.write(f"\n$ {' '.join(map(str, command))}\n")
        child = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for line in child.stdout:
            out.write(line)
            if (step := re.match(r"\[(\d+)/(\d+)\]", line)) and time.monotonic() - said > PROGRESS_EVERY_S:
                said = time.monotonic()
                say(f"  {title}: step {step[1]} of {step[2]}, {said - began:.0f} s")
    if child.wait():
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])
        die(f"{title} failed; the end of {log}:\n{tail}", "if the disk is not full, remove that folder and run again")


def stage(variant: Variant, files: dict[str, Path], home: Path, pins: dict[str, str]) -> None:
    """Lay the set out beside its place and move it there; files equal to an earlier set's are hard links to them."""
    part = home / f".{variant.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    earlier = [folder for folder in home.iterdir() if not folder.name.startswith(".")]
    for name, source in files.items():
        content = source.read_bytes()
        twins = [f / name for f in earlier if (f / name).exists() and (f / name).read_bytes() == content]
        if twins:
            os.link(twins[0], part / name)
        else:
            shutil.copy(source, part / name)
    library = next(name for name in files if name.startswith("libllama.so"))
    if library != "libllama.so":
        (part / "libllama.so").symlink_to(library)  # the name the Python binding opens
    about = {
        "name": variant.name,
        "machine": variant.machine,
        "blas": variant.blas,
        "features": list(variant.features),
        "rank": variant.rank,
        "llama_cpp_python": pins["LLAMA_CPP_PYTHON_VERSION"],
        "llama_cpp_commit": pins["LLAMA_CPP_COMMIT"],
        "sdist_sha256": pins["LLAMA_CPP_PYTHON_SHA256"],
    }
    (part / "set.json").write_text(json.dumps(about, indent=2) + "\n")
    part.rename(home / variant.name)


def cross_options(sysroot: Path) -> dict[str, str]:
    options = {
        "CMAKE_SYSTEM_NAME": "Linux",
        "CMAKE_SYSTEM_PROCESSOR": "aarch64",
        "CMAKE_SYSROOT": str(sysroot),
        "CMAKE_FIND_ROOT_PATH_MODE_PROGRAM": "NEVER",
        **{f"CMAKE_FIND_ROOT_PATH_MODE_{kind}": "ONLY" for kind in ("LIBRARY", "INCLUDE", "PACKAGE")},
    }
    for language, compiler in (("C", "clang"), ("CXX", "clang++"), ("ASM", "clang")):
        options[f"CMAKE_{language}_COMPILER"] = compiler
        options[f"CMAKE_{language}_COMPILER_TARGET"] = "aarch64-linux-gnu"
    return options


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog="Prints the folder that holds the sets.")
    parser.add_argument("target", choices=["arm64", "native"], help="the image's sets, or one for this machine")
    parser.add_argument("--suite", help="arm64: the image's release (bookworm, jammy, noble)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="compilers at a time (default %(default)s)")
    parser.add_argument("--print-key", action="store_true", help="print the cache key and build nothing")
    args = parser.parse_args()
    if args.target == "native" and platform.machine() != "x86_64":
        parser.error("native is for x86-64 hosts; on Arm use arm64 --suite SUITE")
    if (args.target == "arm64") != bool(args.suite):
        parser.error("--suite goes with arm64, and arm64 needs it")

    arm64 = args.target == "arm64"
    pins = read_pins((REPO / "packer/versions.env").read_text())
    packages = {"cmake": "cmake", "ninja": "ninja-build", "readelf": "binutils"}
    packages |= {"clang": "clang", "ld.lld": "lld"} if arm64 else {"cc": "gcc", "c++": "g++"}
    require_tools(packages)
    identity = [Path(__file__).read_text(), pins["LLAMA_CPP_PYTHON_SHA256"]]
    identity.append(answer("clang" if arm64 else "c++", "--version").splitlines()[0])
    if arm64:
        identity.append(answer(REPO / "scripts/make_sysroot.sh", "--print-key", args.suite))
        label = f"arm64-{args.suite}"
    else:
        flags = set(re.search(r"^flags\s*:(.*)", Path("/proc/cpuinfo").read_text(), re.M)[1].split())
        variants = native_variants(flags, find_openblas(Path("/"), "x86_64"))
        identity += [f"{variant.name} {variant.features}" for variant in variants]
        label = "native"
    key = f"{label}-{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]}"
    if args.print_key:
        print(key)
        return

    cache = Path(os.environ.get("LLAMAKILN_CACHE") or Path.home() / ".cache/llamakiln")
    home, work = cache / "libllama" / key, cache / "libllama" / f".{key}.work"
    home.mkdir(parents=True, exist_ok=True)
    work.mkdir(exist_ok=True)
    with (cache / "libllama" / f".{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second run waits for the first, then finds its sets
        sysroot = None
        if arm64:
            names = [variant.name for variant in arm64_variants({})]
            if not all((home / name).exists() for name in names):
                sysroot = Path(answer(REPO / "scripts/make_sysroot.sh", args.suite))
                openblas = find_openblas(sysroot, "aarch64") or die(f"{sysroot} has no OpenBLAS")
                variants = arm64_variants(openblas)
            else:
                variants = []
        todo = [variant for variant in variants if not (home / variant.name).exists()]
        if todo:
            build(todo, home, work, sysroot, pins, args.jobs, cache)
        shutil.rmtree(work, ignore_errors=True)
    print(home)


def build(
    todo: list[Variant], home: Path, work: Path, sysroot: Path | None, pins: dict[str, str], jobs: int, cache: Path
) -> None:
    sdist = Path(answer(REPO / "scripts/fetch_sdist.sh"))
    source = sdist / f"llama_cpp_python-{pins['LLAMA_CPP_PYTHON_VERSION']}" / "vendor/llama.cpp"
    common = {**OPTIONS, "LLAMA_BUILD_COMMIT": pins["LLAMA_CPP_COMMIT"]}
    link = "-s" + (" -fuse-ld=lld" if sysroot else "")
    common |= {f"CMAKE_{kind}_LINKER_FLAGS": link for kind in ("EXE", "SHARED")}
    common |= {f"CMAKE_{lang}_FLAGS": f"-ffile-prefix-map={source}=llama.cpp" for lang in ("C", "CXX")}
    if sysroot:
        common |= cross_options(sysroot)
    if shutil.which("ccache"):  # makes a second build cheap, changes nothing in it
        os.environ["CCACHE_DIR"] = str(cache / "ccache")
        common |= {f"CMAKE_{lang}_COMPILER_LAUNCHER": "ccache" for lang in ("C", "CXX")}
    log, tree = work / "build.log", work / "build"
    for variant in todo:
        began = time.monotonic()
        say(f"building {variant.name} with {jobs} compilers")
        options = [f"-D{name}={value}" for name, value in {**common, **variant.options}.items()]
        run_logged(f"configuring {variant.name}", ["cmake", "-G", "Ninja", "-S", source, "-B", tree, *options], log)
        run_logged(variant.name, ["ninja", "-C", tree, "-j", str(jobs), "llama", "llama-bench", "llama-cli"], log)
        files = collect(tree / "bin")
        if variant.has_smmla is not None:
            cpu = next(path for name, path in files.items() if name.startswith("libggml-cpu"))
            if has_smmla(text_section(cpu)) != variant.has_smmla:
                die(f"{variant.name}: SMMLA in {cpu.name}: must be {variant.has_smmla}; the CPU flags were not applied")
        needs = check_needs(files, sysroot) if sysroot else "this host's libraries"
        stage(variant, files, home, pins)
        size_mb = sum(path.stat().st_size for path in files.values()) / 1e6
        say(f"  {variant.name}: {size_mb:.1f} MB, needs {needs}, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
