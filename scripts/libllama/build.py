"""Build the llama.cpp library sets from the tree inside the pinned llama-cpp-python source distribution.

`arm64` builds what the image carries: two CPU levels (A2 and A1), each with and without OpenBLAS, with clang against
the sysroot of the image's release, on any host. `native` builds for this very machine, for `make run`. A set is a
folder with libllama, the libraries it brings, tools and set.json; service/llama/library.py picks a set by its set.json.

Only libggml-cpu depends on CPU flags, and only libggml and libggml-blas on OpenBLAS. So all sets of a target come out
of one build folder: it makes everything for the first set, and for the others it is configured anew and makes the ggml
libraries again. A set is cached under a key of everything that goes into it; its presence means complete.

Where this machine can run a set, it has to live through one decode step before it counts (decode_step.py). If a native
set does not, a file .NAME.died keeps what it died of, and one that uses less of the CPU is built instead, and so on.

Standard library only: runs before any venv.
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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from ..files import cache_root
from . import cmake, decode_step, elf, patch
from .cmake import common_options, find_openblas

REPO = Path(__file__).resolve().parents[2]
LOG_TAIL_LINES = 30
PROGRESS_EVERY_S = 20

# What the compiler may use at that level without being asked, as /proc/cpuinfo spells it.
A1_FEATURES = ("asimd", "asimddp", "asimdhp", "asimdrdm", "atomics", "crc32", "fphp")
A2_FEATURES = (*A1_FEATURES, "bf16", "i8mm", "ilrcpc", "lrcpc")
# The x86-64 extensions that ggml has kernels for; a native set needs those of them that this machine has.
X86_FEATURES = re.findall(
    r"\w+",
    """amx_bf16 amx_int8 amx_tile avx avx2 avx512_bf16 avx512_vbmi2 avx512_vnni avx512bw avx512cd avx512dq avx512f
    avx512vbmi avx512vl avx_vnni bmi1 bmi2 f16c fma sse4_1 sse4_2 ssse3""",
)
# ggml's options for parts of an x86-64 CPU, and what each needs; what a native set does without if it dies.
X86_OPTIONS = {
    "SSE42": ("ssse3", "sse4_1", "sse4_2"),
    **{name: (name.lower(),) for name in ("AVX", "F16C", "FMA", "AVX2", "BMI2", "AVX_VNNI")},
    "AVX512": ("avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"),
    "AVX512_VBMI": ("avx512vbmi",),
    "AVX512_VNNI": ("avx512_vnni",),
    "AVX512_BF16": ("avx512_bf16",),
    **{name: (name.lower(),) for name in ("AMX_TILE", "AMX_INT8", "AMX_BF16")},
}
X86_WITHOUT = {"amx": r"AMX", "avx512": r"AMX|AVX512|AVX_VNNI", "avx": r"AMX|AVX|F16C|FMA|BMI2"}


@dataclass(frozen=True)
class Variant:
    """One set to build: `cpu_options` go to CMake, `has_smmla` is whether its CPU code must use i8mm (None: any)."""

    name: str
    machine: str
    rank: int
    blas: bool
    features: Sequence[str]
    cpu_options: Mapping[str, str]
    tools: Sequence[str]
    has_smmla: bool | None = None


def arm64_variants() -> list[Variant]:
    """The image's sets, each one change away from the one before it."""
    tools = ("llama-bench", "llama-cli")
    a1 = {"GGML_NATIVE": "OFF", "GGML_CPU_ARM_ARCH": "armv8.2-a+dotprod+fp16"}
    a2 = {"GGML_NATIVE": "OFF", "GGML_CPU_ARM_ARCH": "armv8.6-a+dotprod+fp16+i8mm+bf16"}
    return [
        Variant("arm64-a1", "aarch64", 1, False, A1_FEATURES, a1, tools, has_smmla=False),
        Variant("arm64-a1-blas", "aarch64", 1, True, A1_FEATURES, a1, tools, has_smmla=False),
        Variant("arm64-a2-blas", "aarch64", 2, True, A2_FEATURES, a2, tools, has_smmla=True),
        Variant("arm64-a2", "aarch64", 2, False, A2_FEATURES, a2, tools, has_smmla=True),
    ]


def native_variants(machine: str, cpu_flags: set[str], has_openblas: bool) -> list[Variant]:
    """The sets for this machine; without llama-cli, which costs as much again as all the rest. [] if none fits it.

    On x86-64 whatever the CPU has; on Arm the image's own sets of the highest CPU level that fits.
    """
    if machine == "x86_64":
        features = [name for name in X86_FEATURES if name in cpu_flags]
        name, options = "x86-64-native", {"GGML_NATIVE": "ON"}
        sets = [
            Variant(name, machine, 1, False, features, options, ("llama-bench",)),
            Variant(f"{name}-blas", machine, 1, True, features, options, ("llama-bench",)),
        ]
    else:
        sets = [v for v in arm64_variants() if v.machine == machine and cpu_flags.issuperset(v.features)]
        sets = [replace(v, tools=("llama-bench",)) for v in sets if v.rank == max(v.rank for v in sets)]
    return sorted((variant for variant in sets if has_openblas or not variant.blas), key=lambda variant: variant.blas)


def native_levels(machine: str, cpu_flags: set[str], has_openblas: bool) -> list[list[Variant]]:
    """What to build for this machine, and what instead if that dies here: each level uses less of the CPU than the one
    before. The first set of a level is without OpenBLAS. [] if none fits it.

    Below the native sets of x86-64 nothing is left to the compiler's idea of the CPU (-march=native).
    """
    levels = [native_variants(machine, cpu_flags, has_openblas)]
    if machine == "x86_64":
        fits = [name for name, needs in X86_OPTIONS.items() if cpu_flags.issuperset(needs)]
        for name, pattern in X86_WITHOUT.items():
            used = [option for option in fits if not re.match(pattern, option)]
            options = {"GGML_NATIVE": "OFF", **{f"GGML_{o}": "ON" if o in used else "OFF" for o in X86_OPTIONS}}
            features = [feature for option in used for feature in X86_OPTIONS[option]]
            level = [
                replace(v, name=v.name.replace("native", f"without-{name}"), features=features, cpu_options=options)
                for v in levels[0]
            ]
            if len(levels) > 1 and levels[-1][0].features == features:
                levels.pop()  # this CPU has nothing of what the other name says it does without
            levels.append(level)
    else:
        levels.append(native_variants(machine, cpu_flags.intersection(A1_FEATURES), has_openblas))
        if levels[0] == levels[1]:
            levels.pop()
    return [level for level in levels if level]


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def die(message: str, way_out: str = "") -> NoReturn:
    say(f"error: {message}" + (f"\n  try: {way_out}" if way_out else ""))
    raise SystemExit(1)


def read_pins(text: str) -> dict[str, str]:
    """The KEY=value lines of packer/versions.env."""
    return dict(re.findall(r"^([A-Z_0-9]+)=(\S*)$", text, re.M))


def read_code() -> list[str]:
    """The text of what decides how a set is built: it names the set in the cache."""
    return [Path(file).read_text() for file in (__file__, cmake.__file__, decode_step.__file__)]


def answer(*command: str | Path) -> str:
    """Standard output of a command that must succeed; what it says on standard error is for the person."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    return done.stdout.strip()


def require_tools(packages: Mapping[str, str]) -> None:
    """Stop unless every tool is there; `packages` says which package brings it."""
    missing = sorted({package for tool, package in packages.items() if not shutil.which(tool)})
    if missing:
        die(f"build tools are missing: {', '.join(missing)}", f"apt-get install {' '.join(missing)}")


def read_cpu_flags() -> set[str]:
    return set(re.search(r"^(?:flags|Features)\s*:(.*)", Path("/proc/cpuinfo").read_text(), re.M)[1].split())


def run_logged(title: str, command: Sequence[str | Path], log: Path) -> None:
    """Run with output to `log`; say now and then how far ninja is; on failure show the end of the log and stop."""
    began = said = time.monotonic()
    with log.open("a") as out:
        out.write(f"\n$ {' '.join(map(str, command))}\n")
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for line in child.stdout:
            out.write(line)
            if (step := re.match(r"\[(\d+)/(\d+)\]", line)) and time.monotonic() - said > PROGRESS_EVERY_S:
                said = time.monotonic()
                say(f"  {title}: step {step[1]} of {step[2]}, {said - began:.0f} s")
    if child.wait():
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])
        die(f"{title} failed; the end of {log}:\n{tail}", f"if the disk is not full, rm -r {log.parent} and run again")


def collect(bin_dir: Path, roots: Sequence[str]) -> dict[str, Path]:
    """Name -> file of the roots and of every library of theirs that was built here, under the name loaders ask for."""
    files: dict[str, Path] = {}
    todo = list(roots)
    while todo:
        path = bin_dir / todo.pop()
        if path.exists():
            about = elf.read(path)
            name = about.soname or path.name
            if name not in files:
                files[name] = path.resolve()
                todo += about.needed
        elif path.name in roots:
            die(f"the build made no {path}")
    return files


def check(variant: Variant, files: Mapping[str, Path], sysroot: Path | None) -> str:
    """Stop if the files need more than the sysroot's release has, or ignore the CPU flags; say what they need."""
    needs = {name: elf.read(path) for name, path in files.items()}
    if sysroot and (unmet := elf.find_unmet(needs, sysroot)):
        die(f"{variant.name}: {'; '.join(unmet)}: not in {sysroot.name}")
    cpu = next(path for name, path in files.items() if name.startswith("libggml-cpu"))
    if variant.has_smmla not in (None, elf.has_smmla(elf.read_text_section(cpu))):
        die(f"{variant.name}: SMMLA in {cpu.name} must be {variant.has_smmla}: the CPU flags were not applied")
    return ", ".join(f"{kind} {version}" for kind, version in elf.highest_versions(needs).items())


def stage(variant: Variant, files: Mapping[str, Path], home: Path, pins: Mapping[str, str]) -> None:
    """Lay the set out beside its place and move it there; files equal to another set's are hard links to them."""
    part = home / f".{variant.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    others = [folder for folder in sorted(home.iterdir()) if not folder.name.startswith(".")]
    for name, source in files.items():
        twin = next((f / name for f in others if (f / name).exists() and same_bytes(f / name, source)), None)
        if twin:
            os.link(twin, part / name)
        else:
            shutil.copy(source, part / name)
    versioned = next(name for name in files if name.startswith("libllama.so"))
    if versioned != "libllama.so":
        (part / "libllama.so").symlink_to(versioned)  # the name that the binding opens
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
    if deaths := read_deaths(home):
        about["instead_of"] = deaths
    (part / "set.json").write_text(json.dumps(about, indent=2) + "\n")
    part.rename(home / variant.name)


def record_of_death(variant: Variant, home: Path) -> Path:
    return home / f".{variant.name}.died"


def read_deaths(home: Path) -> dict[str, str]:
    """Sets that died on this CPU, and of what."""
    return {record.name[1 : -len(".died")]: record.read_text() for record in sorted(home.glob(".*.died"))}


def find_loader(variant: Variant, sysroot: Path | None) -> list[str | Path] | None:
    """What runs the set's programs on this machine, put before them; None if it cannot run them."""
    if not sysroot:
        return []
    if platform.machine() != variant.machine or not read_cpu_flags().issuperset(variant.features):
        return None
    folder = f"{sysroot}/usr/lib/{variant.machine}-linux-gnu"
    blas = Path(find_openblas(sysroot, variant.machine).get("BLAS_LIBRARIES", folder)).parent
    return [f"{sysroot}/lib/ld-linux-{variant.machine}.so.1", "--library-path", f"{folder}:{blas}"]


def try_out(variant: Variant, bench: Path, sysroot: Path | None) -> tuple[str, str]:
    """What the set died of here ("": nothing), and what is to be said of the trial."""
    loader = find_loader(variant, sysroot)
    if loader is None:
        return "", "not for this CPU, so not tried"
    try:
        death = decode_step.death(bench, loader)
    except decode_step.Unusable as error:
        die(f"{variant.name} could not be tried: {error}")
    return death, f"died here in one decode step: {death}" if death else "lives here"


def settle(levels: Sequence[Sequence[Variant]], home: Path, make: Callable[[Sequence[Variant]], None]) -> list[Variant]:
    """The sets of the first level that lives here; `make` makes those of a level. What died is not tried again."""
    alive: list[Variant] = []
    for level in levels:
        dead = read_deaths(home)
        if level[0].name not in dead and not all(v.name in dead or (home / v.name).exists() for v in level):
            make(level)
        alive = [variant for variant in level if (home / variant.name).exists()]
        if alive:
            break
    dead = ", ".join(f"{name} ({death})" for name, death in read_deaths(home).items())
    if not alive:
        die(f"every library set dies on this CPU in one decode step: {dead}", f"rm -r {home} and run again to try anew")
    if dead:
        say(f"died on this CPU in one decode step: {dead}; used instead: {', '.join(v.name for v in alive)}")
    return alive


def same_bytes(one: Path, other: Path) -> bool:
    return one.stat().st_size == other.stat().st_size and one.read_bytes() == other.read_bytes()


def build(
    variants: Sequence[Variant],
    home: Path,
    work: Path,
    pins: Mapping[str, str],
    suite: str | None,
    jobs: int,
    *,
    edits: Sequence[patch.Edit] = patch.EDITS,
) -> None:
    """Build the sets that `home` lacks, up to the first that dies here. An interrupted build goes on in `work`. edits:
    what is changed in llama.cpp."""
    sysroot = Path(answer(REPO / "scripts/libllama/make_sysroot.sh", suite)) if suite else None
    sdist = Path(answer(REPO / "scripts/libllama/fetch_sdist.sh"))
    source = sdist / f"llama_cpp_python-{pins['LLAMA_CPP_PYTHON_VERSION']}" / "vendor/llama.cpp"
    name = f"{pins['LLAMA_CPP_PYTHON_SHA256'][:12]}-{patch.key(edits)}"
    try:
        source = patch.apply(source, cache_root() / "llama.cpp" / name, edits)
    except patch.Mismatch as error:
        die(f"our changes to llama.cpp do not fit: {error}", "hold scripts/libllama/patch.py against the new tree")
    common = common_options(source, sysroot, pins["LLAMA_CPP_COMMIT"])
    openblas = find_openblas(sysroot or Path("/"), variants[0].machine)
    if shutil.which("ccache"):  # makes the next build of the same tree cheap and changes nothing in it
        os.environ["CCACHE_DIR"] = str(cache_root() / "ccache")
        common |= {f"CMAKE_{language}_COMPILER_LAUNCHER": "ccache" for language in ("C", "CXX")}
    work.mkdir(exist_ok=True)
    log, tree = work / "build.log", work / "tree"
    roots = ["libllama.so", *variants[0].tools]
    for variant in variants:
        if (home / variant.name).exists():
            continue
        began = time.monotonic()
        say(f"building {variant.name} with {jobs} compilers")
        blas = {"GGML_BLAS": "ON", **openblas} if variant.blas else {"GGML_BLAS": "OFF"}
        options = [f"-D{name}={value}" for name, value in {**common, **variant.cpu_options, **blas}.items()]
        run_logged(f"configuring {variant.name}", ["cmake", "-G", "Ninja", "-S", source, "-B", tree, *options], log)
        is_first = not all((tree / "bin" / name).exists() for name in roots)
        targets = ["llama", *variant.tools] if is_first else ["ggml"]
        run_logged(variant.name, ["ninja", "-C", tree, "-j", str(jobs), *targets], log)
        files = collect(tree / "bin", roots)
        needs = check(variant, files, sysroot)
        death, verdict = try_out(variant, files["llama-bench"], sysroot)
        if death and sysroot:
            die(f"{variant.name} {verdict}")
        if death:
            record_of_death(variant, home).write_text(death)
            say(f"  {variant.name} {verdict}")
            return
        stage(variant, files, home, pins)
        size_mb = sum(path.stat().st_size for path in files.values()) / 1e6
        say(f"  {variant.name}: {size_mb:.1f} MB, needs {needs}, {verdict}, took {time.monotonic() - began:.0f} s")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog="Prints the folder with the sets.")
    parser.add_argument("target", choices=["arm64", "native"], help="the image's sets, or sets for this machine")
    parser.add_argument("--suite", help="arm64: release of the image's base (bookworm, jammy, noble)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="compilers at a time (default %(default)s)")
    parser.add_argument("--print-key", action="store_true", help="print the name it is cached under, build nothing")
    args = parser.parse_args()
    if (args.target == "arm64") != bool(args.suite):
        parser.error("--suite belongs to arm64, and arm64 needs it")
    return args


def main() -> None:
    args = parse_arguments()
    tools = {"clang": "clang", "ld.lld": "lld"} if args.suite else {"cc": "gcc", "c++": "g++"}
    require_tools({"cmake": "cmake", "ninja": "ninja-build", "readelf": "binutils", **tools})
    if args.suite:
        levels = [arm64_variants()]
        ground = answer(REPO / "scripts/libllama/make_sysroot.sh", "--print-key", args.suite)
    else:
        machine, cpu_flags = platform.machine(), read_cpu_flags()
        levels = native_levels(machine, cpu_flags, bool(find_openblas(Path("/"), machine)))
        if not levels:
            die(f"no library set fits this {machine} CPU; Arm needs at least {' '.join(A1_FEATURES)}")
        ground = sorted(cpu_flags)  # the compiler may use more of them than ggml has kernels for
    compiler = answer("clang" if args.suite else "c++", "--version").splitlines()[0]
    pins = read_pins((REPO / "packer/versions.env").read_text())
    pin = pins["LLAMA_CPP_PYTHON_SHA256"]
    recipe = [*read_code(), patch.key(), pin, compiler, ground, repr(levels)]
    key = f"{args.suite or 'native'}-{hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]}"
    if args.print_key:
        print(key)
        return
    home = cache_root() / "libllama" / key
    work, lock_file = home.with_name(f".{key}.work"), home.with_name(f".{key}.lock")
    home.mkdir(parents=True, exist_ok=True)
    with lock_file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another run that builds {key}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        settle(levels, home, lambda level: build(level, home, work, pins, args.suite, args.jobs))
        shutil.rmtree(work, ignore_errors=True)
    print(home)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except OSError as error:
        die(str(error))
