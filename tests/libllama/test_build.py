"""Building the library sets: what goes into the key and the cache, what is checked, and what is said when it fails.

The compilers are stand-ins that take no time: a `ninja` that links three one-line libraries. The real build runs in
`make image` and `make run`, and ends in the same checks.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.files import REPOSITORY
from scripts.libllama import build, build_peers, elf, patch
from scripts.libllama.build import (
    A1_FEATURES,
    A2_FEATURES,
    X86_OPTIONS,
    arm64_variants,
    native_levels,
    native_variants,
)
from service.llama.library import read_sets
from tests.libllama.tree import write_tree

ROOM = REPOSITORY / "scripts" / "libllama"
PINS = build.read_pins((REPOSITORY / "packer/versions.env").read_text())
SMMLA = 0x4E82A420  # smmla v0.4s, v1.16b, v2.16b, as llvm-objdump shows it


def run(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """A shell script of the room, or a module of it by its name."""
    program = [ROOM / name] if name.endswith(".sh") else [sys.executable, "-m", f"scripts.libllama.{name}"]
    return subprocess.run(
        [*program, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def link_library(path: Path, source: str = "", *options: str) -> Path:
    command = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-x", "none", "-o", path, *options]
    subprocess.run(command, input=source, text=True, check=True)
    return path


# ---- variants


def test_every_pin_the_build_needs_is_there():
    assert re.fullmatch(r"[0-9a-f]{64}", PINS["LLAMA_CPP_PYTHON_SHA256"])
    assert re.fullmatch(r"[0-9a-f]{9,40}", PINS["LLAMA_CPP_COMMIT"])
    assert re.fullmatch(r"\d+\.\d+\.\d+", PINS["LLAMA_CPP_PYTHON_VERSION"])


def test_image_gets_both_cpu_levels_with_and_without_openblas():
    assert {v.name: (v.rank, v.blas) for v in arm64_variants()} == {
        "arm64-a1": (1, False),
        "arm64-a1-blas": (1, True),
        "arm64-a2": (2, False),
        "arm64-a2-blas": (2, True),
    }


def test_cpu_level_compiled_for_is_the_one_asked_of_the_cpu():
    """A flag that the compiler may use and set.json does not name ends in SIGILL."""
    spelled = {"dotprod": {"asimddp"}, "fp16": {"fphp", "asimdhp"}, "i8mm": {"i8mm"}, "bf16": {"bf16"}}
    for variant in arm64_variants():
        _level, *extensions = variant.cpu_options["GGML_CPU_ARM_ARCH"].split("+")
        assert set().union(*(spelled[each] for each in extensions)) <= set(variant.features)
        assert variant.has_smmla == ("i8mm" in extensions)


def test_each_set_is_one_change_away_from_the_one_before():
    """Otherwise the shared build folder compiles more than it must."""
    variants = arm64_variants()
    for before, after in pairwise(variants):
        assert (before.blas != after.blas) + (before.cpu_options != after.cpu_options) == 1


def test_native_set_needs_only_what_this_cpu_has_and_ggml_uses():
    (variant,) = native_variants("x86_64", {"avx2", "fma", "fpu", "vme"}, has_openblas=False)
    assert (variant.name, set(variant.features)) == ("x86-64-native", {"avx2", "fma"})


@pytest.mark.parametrize(
    ("machine", "flags", "has_openblas", "names"),
    [
        ("x86_64", set(), True, ["x86-64-native", "x86-64-native-blas"]),
        ("x86_64", set(), False, ["x86-64-native"]),
        ("aarch64", {*A2_FEATURES, "paca"}, False, ["arm64-a2"]),
        ("aarch64", set(A1_FEATURES), True, ["arm64-a1", "arm64-a1-blas"]),
        ("aarch64", {"fp", "asimd"}, True, []),
        ("riscv64", set(), True, []),
    ],
)
def test_native_sets_are_the_best_that_run_here(machine, flags, has_openblas, names):
    assert [v.name for v in native_variants(machine, flags, has_openblas)] == names


SSE_CPU = {"ssse3", "sse4_1", "sse4_2"}
AVX2_CPU = {*SSE_CPU, "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "gfni"}
AVX512_CPU = AVX2_CPU | {name for names in X86_OPTIONS.values() for name in names if name.startswith("avx512")}
AMX_CPU = AVX512_CPU | {"avx_vnni", "amx_tile", "amx_int8", "amx_bf16"}


@pytest.mark.parametrize(
    ("machine", "flags", "names"),
    [
        ("x86_64", AMX_CPU, ["native", "without-amx", "without-avx512", "without-avx"]),
        ("x86_64", AVX512_CPU, ["native", "without-amx", "without-avx512", "without-avx"]),
        ("x86_64", AVX2_CPU, ["native", "without-avx512", "without-avx"]),
        ("x86_64", SSE_CPU, ["native", "without-avx"]),
        ("aarch64", {*A2_FEATURES}, ["a2", "a1"]),
        ("aarch64", {*A1_FEATURES}, ["a1"]),
        ("aarch64", {"asimd"}, []),
    ],
)
def test_each_level_asks_less_of_the_cpu(machine, flags, names):
    levels = native_levels(machine, flags, has_openblas=True)
    assert [re.sub("^(x86-64|arm64)-", "", level[0].name) for level in levels] == names
    for level in levels:
        assert [variant.blas for variant in level] == [False, True]
        assert level[1].name == f"{level[0].name}-blas"
        assert len({(*variant.features,) for variant in level}) == 1
    for more, less in pairwise(level[0] for level in levels):
        assert set(less.features) <= set(more.features) <= flags
        assert less.cpu_options != more.cpu_options


@pytest.mark.parametrize("flags", [set(), AVX2_CPU, AVX512_CPU, AMX_CPU])
def test_below_native_the_features_are_those_compiled_for(flags):
    """Nothing is left to -march=native, which may be what the CPU dies of."""
    for level in native_levels("x86_64", flags, has_openblas=False)[1:]:
        options = dict(level[0].cpu_options)
        assert options.pop("GGML_NATIVE") == "OFF"
        on = [name.removeprefix("GGML_") for name, value in options.items() if value == "ON"]
        assert options.keys() == {f"GGML_{name}" for name in X86_OPTIONS}, "ggml's own defaults say nothing"
        assert sorted(level[0].features) == sorted(feature for name in on for feature in X86_OPTIONS[name])
        for part in re.findall("amx|avx512|avx", level[0].name):
            assert not [feature for feature in level[0].features if feature.startswith(part)]


def test_openblas_is_found_without_the_links_that_configuring_makes(tmp_path):
    library = tmp_path / "usr/lib/aarch64-linux-gnu/openblas-pthread/libopenblas.so"
    header = tmp_path / "usr/include/aarch64-linux-gnu/openblas-pthread/cblas.h"
    for file in (library, header):
        assert build.find_openblas(tmp_path, "aarch64") == {}
        file.parent.mkdir(parents=True)
        file.touch()
    found = build.find_openblas(tmp_path, "aarch64")
    assert (found["BLAS_LIBRARIES"], found["BLAS_INCLUDE_DIRS"]) == (str(library), str(header.parent))
    assert build.find_openblas(tmp_path, "x86_64") == {}


# ---- elf


def test_needs_and_offers_of_a_library_are_read(tmp_path):
    (tmp_path / "versions.map").write_text("KILN_1 { global: fire; };\nKILN_2 { global: glaze; } KILN_1;\n")
    source = '#include <stdio.h>\nvoid fire(void) { puts(""); }\nvoid glaze(void) {}\n'
    options = ["-Wl,-soname,libkiln.so.2", f"-Wl,--version-script={tmp_path}/versions.map"]
    kiln = elf.read(link_library(tmp_path / "libkiln.so", source, *options))
    assert kiln.soname == "libkiln.so.2"
    assert kiln.needed == ("libc.so.6",)
    assert {"KILN_1", "KILN_2"} <= kiln.offers
    assert any(version.startswith("GLIBC_2.") for version in kiln.wants["libc.so.6"])
    user = elf.read(
        link_library(
            tmp_path / "libuser.so", "void glaze(void); void f(void) { glaze(); }", str(tmp_path / "libkiln.so")
        )
    )
    assert user.wants["libkiln.so.2"] == {"KILN_2"}


def an_elf(needed=(), wants=None, offers=()) -> elf.Elf:
    return elf.Elf("", tuple(needed), {k: frozenset(v) for k, v in (wants or {}).items()}, frozenset(offers))


@pytest.mark.parametrize(
    ("files", "unmet"),
    [
        ({"a": an_elf(["libc.so.6"], {"libc.so.6": ["GLIBC_2.34"]})}, []),
        ({"a": an_elf(["libc.so.6"], {"libc.so.6": ["GLIBC_2.38"]})}, ["a needs GLIBC_2.38 of libc.so.6"]),
        ({"a": an_elf(["libomp.so.5"])}, ["a needs libomp.so.5"]),
        ({"a": an_elf(["b"]), "b": an_elf()}, []),
    ],
)
def test_what_the_release_lacks_is_named(tmp_path, monkeypatch, files, unmet):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/libc.so.6").touch()
    monkeypatch.setattr(elf, "read", lambda path: {"libc.so.6": an_elf(offers=["GLIBC_2.17", "GLIBC_2.34"])}[path.name])
    assert elf.find_unmet(files, tmp_path) == unmet


def test_highest_version_is_by_number_not_by_letter():
    files = {"a": an_elf(wants={"libc.so.6": ["GLIBC_2.4", "GLIBC_2.34"]}), "b": an_elf(wants={"c": ["GLIBCXX_3.4.9"]})}
    assert elf.highest_versions(files) == {"GLIBC": "2.34", "GLIBCXX": "3.4.9"}


@given(st.integers(0, 31), st.integers(0, 31), st.integers(0, 31))
def test_smmla_is_seen_with_any_registers(d, n, m):
    word = 0x4E80A400 | m << 16 | n << 5 | d
    assert elf.has_smmla(b"\x1f\x20\x03\xd5" + word.to_bytes(4, "little"))


@pytest.mark.parametrize("word", [0xD503201F, 0x4E829420, 0x6E82A420, 0x4E82AC20, 0x6E42EC20])
def test_other_instructions_are_not_smmla(word):
    """nop, sdot, ummla, usmmla and bfmmla."""
    assert not elf.has_smmla(word.to_bytes(4, "little"))


def test_only_code_is_searched(tmp_path):
    """The same four bytes may well stand in a table."""
    source = f"const unsigned table[] = {{{SMMLA:#x}}};\nvoid f(void) {{}}\n"
    assert not elf.has_smmla(elf.read_text_section(link_library(tmp_path / "data.so", source)))
    source = f'__asm__(".text\\n.balign 4\\n.long {SMMLA:#x}");\n'
    assert elf.has_smmla(elf.read_text_section(link_library(tmp_path / "code.so", source)))


# ---- the build


def vendored(cache: Path) -> Path:
    name = f"llama_cpp_python-{PINS['LLAMA_CPP_PYTHON_VERSION']}"
    return cache / "sdist" / PINS["LLAMA_CPP_PYTHON_SHA256"] / name / "vendor/llama.cpp"


@pytest.fixture
def workshop(tmp_path):
    """A cache with an sdist in it, and stand-ins for the compilers in front of the real ones: environment variables."""
    write_tree(vendored(tmp_path / "cache"))
    write_program(tmp_path / "bin/cmake", '#!/bin/sh\necho "cmake $*" >>"$CALLS"\n')
    write_program(
        tmp_path / "bin/ninja",
        """#!/bin/bash
        set -e
        echo "ninja $*" >>"$CALLS"
        [ -z "${BROKEN:-}" ] || { echo "[1/9] Building ggml.c"; echo "ggml.c:1: error: no such thing"; exit 1; }
        mkdir -p "$2/bin" && cd "$2/bin"
        link() { cc -x c - -x none -Wl,--no-as-needed '-Wl,-rpath,$ORIGIN' "$@"; }
        library() { echo "$2" | link -shared -fPIC -Wl,-soname,"$1" -o "$1" "${@:3}"; }
        library libggml-cpu.so.0 'int cpu;'
        library libllama.so.0 'int llama;' ./libggml-cpu.so.0
        ln -sf libllama.so.0 libllama.so
        library libleftover.so 'int left;'
        end='return 0'
        options=$(grep ^cmake "$CALLS" | tail -n 1)
        if [ -n "${DIES:-}" ] && grep -Eq -- "$DIES" <<<"$options"; then end="return raise(${SIGNAL:-SIGILL})"; fi
        echo "#include <signal.h>
          int main(void) { $end; }" | link ./libllama.so.0 -o llama-bench
        cp llama-bench llama-cli
        cp llama-bench llama-server
        """,
    )
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    return {"LLAMAKILN_CACHE": str(tmp_path / "cache"), "CALLS": str(tmp_path / "calls"), "PATH": path}


def calls(workshop: dict[str, str], tool: str) -> list[str]:
    file = Path(workshop["CALLS"])
    return [line for line in file.read_text().splitlines() if line.startswith(tool)] if file.exists() else []


def test_native_set_is_complete_and_the_service_can_read_it(workshop):
    done = run("build", "native", "--jobs", "1", **workshop)
    assert done.returncode == 0, done.stderr
    home = Path(done.stdout.strip())
    row = next(each for each in read_sets(home) if not each.blas)
    assert (row.llama_cpp_python, row.llama_cpp_commit) == (
        PINS["LLAMA_CPP_PYTHON_VERSION"],
        PINS["LLAMA_CPP_COMMIT"],
    )
    assert {file.name for file in row.path.iterdir()} == {
        *("libllama.so", "libllama.so.0", "libggml-cpu.so.0", "llama-bench", "set.json")
    }
    assert (row.path / "libllama.so").resolve() == row.path / "libllama.so.0"


def test_sets_are_built_once(workshop):
    first = run("build", "native", **workshop)
    n_builds = len(calls(workshop, "ninja"))
    second = run("build", "native", **workshop)
    assert first.stdout == second.stdout
    assert len(calls(workshop, "ninja")) == n_builds > 0


def test_commit_and_openblas_choice_reach_cmake(workshop):
    run("build", "native", **workshop)
    call = calls(workshop, "cmake")[0].split()
    assert {f"-DLLAMA_BUILD_COMMIT={PINS['LLAMA_CPP_COMMIT']}", "-DGGML_BLAS=OFF"} <= set(call)


def test_our_changes_are_compiled(workshop):
    assert run("build", "native", **workshop).returncode == 0
    source = Path(re.search(r"-S (\S+)", calls(workshop, "cmake")[0])[1])
    assert source.is_relative_to(workshop["LLAMAKILN_CACHE"]) and patch.key() in source.name
    assert all((source / place).read_text() == header.read_text() for place, header in patch.HEADERS.items())
    for edit in patch.EDITS:
        assert edit.result in (source / edit.file).read_text()


def test_tree_that_our_changes_do_not_fit_is_not_built(workshop):
    (vendored(Path(workshop["LLAMAKILN_CACHE"])) / patch.OPS).write_text("int other;")
    done = run("build", "native", **workshop)
    assert done.returncode == 1
    assert "error: our changes to llama.cpp do not fit: ggml/src/ggml-cpu/ops.cpp: " in done.stderr
    assert "try: hold scripts/libllama/patch.py against the new tree" in done.stderr
    assert not calls(workshop, "cmake")


def test_failed_compile_shows_the_log_and_leaves_no_set(workshop):
    done = run("build", "native", BROKEN="yes", **workshop)
    assert done.returncode == 1
    assert done.stdout == ""
    assert " failed; the end of " in done.stderr
    assert "ggml.c:1: error: no such thing" in done.stderr
    home = Path(workshop["LLAMAKILN_CACHE"]) / "libllama"
    assert list(home.glob("*/*/set.json")) == []
    assert run("build", "native", **workshop).returncode == 0


def test_everything_is_compiled_for_the_first_set_only(workshop, monkeypatch, tmp_path):
    for name, value in workshop.items():
        monkeypatch.setenv(name, value)
    home = tmp_path / "home"
    home.mkdir()
    variants = native_variants("x86_64", set(), has_openblas=True)
    build.build(variants, home, tmp_path / "work", PINS, None, 1)
    targets = [line.split("-j 1 ")[1] for line in calls(workshop, "ninja")]
    assert targets == ["llama llama-bench", "ggml"]
    assert {each.name for each in read_sets(home)} == {"x86-64-native", "x86-64-native-blas"}


# ---- on CPUs where a set dies


@pytest.fixture
def settle(workshop, monkeypatch, tmp_path):
    """Call `settle(levels, DIES="pattern of CMake options")`: the sets that are used, and the folder of all."""
    for name, value in workshop.items():
        monkeypatch.setenv(name, value)
    home = tmp_path / "home"
    home.mkdir()

    def run(levels, **variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        alive = build.settle(levels, home, lambda level: build.build(level, home, tmp_path / "work", PINS, None, 1))
        return [variant.name for variant in alive], home

    return run


LEVELS = native_levels("x86_64", AMX_CPU, has_openblas=True)
DEATHS = {
    "GGML_NATIVE=ON": "x86-64-without-amx",
    "GGML_NATIVE=ON|GGML_AVX512=ON": "x86-64-without-avx512",
    "GGML_NATIVE=ON|GGML_AVX=ON": "x86-64-without-avx",
}


@pytest.mark.parametrize("dies", DEATHS)
def test_set_that_dies_gives_way_to_one_that_lives(settle, capsys, dies):
    names, home = settle(LEVELS, DIES=dies)
    assert names == [DEATHS[dies], f"{DEATHS[dies]}-blas"]
    sets = {each.name: each for each in read_sets(home)}
    assert sorted(sets) == names
    (level,) = (level for level in LEVELS if level[0].name == names[0])
    assert sets[names[0]].features == set(level[0].features)
    dead = [level[0].name for level in LEVELS[: LEVELS.index(level)]]
    assert json.loads((home / names[0] / "set.json").read_text())["instead_of"] == dict.fromkeys(dead, "SIGILL")
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("died on this CPU in one decode step: x86-64-native (SIGILL)")
    assert said.endswith(f"; used instead: {names[0]}, {names[0]}-blas")


def test_set_that_lives_is_used_and_nothing_is_said(settle, capsys):
    names, home = settle(LEVELS)
    assert names == ["x86-64-native", "x86-64-native-blas"]
    assert "instead_of" not in json.loads((home / names[0] / "set.json").read_text())
    assert "died" not in capsys.readouterr().err


def test_what_died_is_not_tried_again(settle, workshop, capsys):
    first, _ = settle(LEVELS, DIES="GGML_NATIVE=ON")
    n_builds = len(calls(workshop, "ninja"))
    capsys.readouterr()
    second, _ = settle(LEVELS, DIES="nothing")
    assert second == first
    assert len(calls(workshop, "ninja")) == n_builds == 3, "one died without its twin, two live"
    assert "died on this CPU in one decode step: x86-64-native (SIGILL)" in capsys.readouterr().err


def test_only_the_twin_with_openblas_dies(settle, workshop):
    """Old releases of OpenBLAS crash on new CPUs; that is no reason to do without AVX-512."""
    names, home = settle(LEVELS, DIES="GGML_BLAS=ON", SIGNAL="SIGSEGV")
    assert names == ["x86-64-native"] == [each.name for each in read_sets(home)]
    n_builds = len(calls(workshop, "ninja"))
    assert settle(LEVELS)[0] == names
    assert len(calls(workshop, "ninja")) == n_builds


@pytest.mark.parametrize("again", [False, True])
def test_no_set_that_lives_is_an_error(settle, capsys, again):
    for _ in range(1 + again):
        with pytest.raises(SystemExit):
            settle(LEVELS, DIES=".", SIGNAL="SIGABRT")
    said = capsys.readouterr().err
    dead = ", ".join(f"{level[0].name} (SIGABRT)" for level in sorted(LEVELS, key=lambda level: level[0].name))
    assert f"error: every library set dies on this CPU in one decode step: {dead}\n  try: rm -r " in said


def test_end_from_outside_is_no_verdict_on_the_cpu(settle, capsys):
    with pytest.raises(SystemExit):
        settle(LEVELS, DIES=".", SIGNAL="SIGKILL")
    assert "x86-64-native could not be tried: " in capsys.readouterr().err
    assert settle(LEVELS, DIES="nothing")[0] == ["x86-64-native", "x86-64-native-blas"]


def test_native_run_prints_the_folder_of_what_lives(workshop):
    """Whatever this machine is: its first level dies."""
    machine, has_openblas = platform.machine(), bool(build.find_openblas(Path("/"), platform.machine()))
    levels = native_levels(machine, build.read_cpu_flags(), has_openblas)
    if len(levels) < 2:
        pytest.skip("on this CPU there is one level only")
    (option,) = (
        f"{name}={value}" for name, value in levels[0][0].cpu_options.items() if "ARCH" in name or value == "ON"
    )
    done = run("build", "native", DIES=re.escape(option), **workshop)
    assert done.returncode == 0, done.stderr
    assert [each.name for each in read_sets(Path(done.stdout.strip()))] == [v.name for v in levels[1]]


@pytest.mark.parametrize("dies", ["nothing", "GGML_NATIVE=ON"])
def test_peers_get_the_same_care(workshop, monkeypatch, dies):
    if platform.machine() != "x86_64":
        pytest.skip("the options that die are x86-64's")
    levels = native_levels("x86_64", build.read_cpu_flags(), has_openblas=False)
    done = run("build_peers", DIES=dies, **workshop)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert folder.name == levels[dies != "nothing"][0].name
    assert (folder / "llama-server").exists() and (folder / "libmtmd.so").is_symlink()
    source = Path(re.search(r"-S (\S+)", calls(workshop, "cmake")[0])[1])
    assert patch.key(patch.FIXES) in source.name
    assert run("build_peers", DIES=dies, **workshop).stdout == done.stdout


def test_peers_are_not_built_for_a_cpu_that_nothing_fits(monkeypatch, capsys):
    monkeypatch.setattr(build_peers.platform, "machine", lambda: "riscv64")
    with pytest.raises(SystemExit):
        build_peers.peer_levels({"v"})
    assert "no library set fits this riscv64 CPU" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("machine", "flags", "runs"),
    [("aarch64", {*A2_FEATURES}, True), ("aarch64", {*A1_FEATURES}, False), ("x86_64", {*A2_FEATURES}, False)],
)
def test_image_s_set_is_tried_where_it_can_run(tmp_path, monkeypatch, machine, flags, runs):
    """With the libraries of its release, not the host's."""
    monkeypatch.setattr(build.platform, "machine", lambda: machine)
    monkeypatch.setattr(build, "read_cpu_flags", lambda: flags)
    loader = build.find_loader(arm64_variants()[-1], tmp_path)
    assert (loader is not None) == runs
    if runs:
        assert loader[0] == f"{tmp_path}/lib/ld-linux-aarch64.so.1"
        assert loader[2].startswith(f"{tmp_path}/usr/lib/aarch64-linux-gnu:")


def test_image_s_set_that_dies_stops_the_bake(settle, workshop, monkeypatch, capsys, tmp_path):
    """An image needs all of its sets."""
    monkeypatch.setattr(build, "answer", lambda *command: str(vendored(tmp_path / "cache").parents[2]))
    monkeypatch.setattr(build, "check", lambda *arguments: "nothing")
    monkeypatch.setattr(build, "find_loader", lambda *arguments: [])
    monkeypatch.setenv("DIES", ".")
    with pytest.raises(SystemExit):
        build.build(arm64_variants(), tmp_path / "home", tmp_path / "work", PINS, "jammy", 1)
    assert "error: arm64-a1 died here in one decode step: SIGILL" in capsys.readouterr().err
    assert not list((tmp_path / "home").iterdir())


def test_equal_files_of_sets_are_stored_once(tmp_path):
    home, built = tmp_path / "home", tmp_path / "built"
    home.mkdir()
    built.mkdir()
    files = {name: built / name for name in ("libllama.so.0", "libggml-cpu.so.0")}
    for variant in arm64_variants()[:2]:
        (built / "libllama.so.0").write_text("the same")
        (built / "libggml-cpu.so.0").write_text(variant.name)
        build.stage(variant, files, home, PINS)
    one, other = home / "arm64-a1", home / "arm64-a1-blas"
    assert (one / "libllama.so.0").samefile(other / "libllama.so.0")
    assert not (one / "libggml-cpu.so.0").samefile(other / "libggml-cpu.so.0")
    assert json.loads((other / "set.json").read_text())["blas"] is True


@pytest.mark.parametrize("has_smmla", [False, True])
def test_set_whose_cpu_flags_were_not_applied_is_refused(tmp_path, capsys, has_smmla):
    source = f'__asm__(".text\\n.balign 4\\n.long {0 if has_smmla else SMMLA:#x}");\n'
    files = {"libggml-cpu.so.0": link_library(tmp_path / "libggml-cpu.so.0", source)}
    variant = next(each for each in arm64_variants() if each.has_smmla == has_smmla)
    with pytest.raises(SystemExit):
        build.check(variant, files, None)
    assert f"SMMLA in libggml-cpu.so.0 must be {has_smmla}" in capsys.readouterr().err


def test_set_that_needs_more_than_the_release_has_is_refused(tmp_path, capsys):
    files = {
        "libllama.so.0": link_library(tmp_path / "libllama.so.0", '#include <stdio.h>\nvoid f(void) { puts(""); }')
    }
    (tmp_path / "bookworm").mkdir()
    with pytest.raises(SystemExit):
        build.check(arm64_variants()[0], files, tmp_path / "bookworm")
    assert "arm64-a1: libllama.so.0 needs libc.so.6: not in bookworm" in capsys.readouterr().err


def test_missing_tools_are_named_by_package(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit):
        build.require_tools({"ninja": "ninja-build", "clang": "clang"})
    assert "apt-get install clang ninja-build" in capsys.readouterr().err


def test_key_changes_with_release_and_compiler(tmp_path):
    keys = set()
    for version in ("14.0.6", "18.1.3"):
        for tool in ("clang", "ld.lld", "cmake", "ninja"):
            write_program(tmp_path / tool, f"#!/bin/sh\necho {tool} version {version}\n")
        for suite in ("bookworm", "jammy"):
            key, again = (
                run(
                    "build",
                    "arm64",
                    "--suite",
                    suite,
                    "--print-key",
                    PATH=f"{tmp_path}:{os.environ['PATH']}",
                )
                for _ in range(2)
            )
            assert key.stdout == again.stdout
            assert key.stdout.startswith(f"{suite}-")
            keys.add(key.stdout)
    assert len(keys) == 4


def test_key_of_native_sets_changes_with_the_cpu(monkeypatch, capsys):
    """The compiler uses more of the CPU than ggml has kernels for: such a set dies on one that lacks it."""
    keys = set()
    for more in (set(), {"gfni"}):
        monkeypatch.setattr(build, "read_cpu_flags", lambda more=more: {*A1_FEATURES, "avx2"} | more)
        monkeypatch.setattr(build.sys, "argv", ["build", "native", "--print-key"])
        build.main()
        keys.add(capsys.readouterr().out)
    assert len(keys) == 2


@pytest.mark.parametrize("arguments", [["arm64"], ["native", "--suite", "jammy"], ["riscv"], []])
def test_wrong_arguments_are_refused(arguments):
    done = run("build", *arguments)
    assert (done.returncode, done.stdout) == (2, "")


# ---- sdist and sysroot


@pytest.fixture
def sdist(tmp_path):
    """Make a stand-in for `python -m pip download` that brings a small archive with a llama.cpp of this commit."""

    def make(commit: str) -> dict[str, str]:
        name = f"llama_cpp_python-{PINS['LLAMA_CPP_PYTHON_VERSION']}"
        head = tmp_path / name / ".git/modules/vendor/llama.cpp/HEAD"
        head.parent.mkdir(parents=True)
        head.write_text(commit + "\n")
        with tarfile.open(tmp_path / f"{name}.tar.gz", "w:gz") as archive:
            archive.add(tmp_path / name, name)
        write_program(
            tmp_path / "python",
            f"""#!/bin/bash
            if [ "$3" = --version ]; then exit; fi
            if [ -n "${{OFFLINE:-}}" ]; then echo "ERROR: no network" >&2; exit 1; fi
            [[ " $* " == *" --require-hashes "* ]] || exit 9
            cp {tmp_path / name}.tar.gz "${{@: -1}}"
            """,
        )
        return {"PYTHON": str(tmp_path / "python"), "LLAMAKILN_CACHE": str(tmp_path / "cache")}

    return make


def leftovers(environment: dict[str, str], kind: str) -> list[Path]:
    return list((Path(environment["LLAMAKILN_CACHE"]) / kind).glob("*"))


def test_sdist_is_fetched_once(sdist):
    environment = sdist(PINS["LLAMA_CPP_COMMIT"] + "bba43")
    first = run("fetch_sdist.sh", **environment)
    assert first.returncode == 0, first.stderr
    name = f"llama_cpp_python-{PINS['LLAMA_CPP_PYTHON_VERSION']}"
    assert {file.name for file in Path(first.stdout.strip()).iterdir()} == {name, f"{name}.tar.gz"}
    assert run("fetch_sdist.sh", OFFLINE="yes", **environment).stdout == first.stdout


def test_sdist_with_another_llama_cpp_is_refused(sdist):
    environment = sdist("f" * 40)
    done = run("fetch_sdist.sh", **environment)
    assert done.returncode == 1
    assert f"carries llama.cpp {'f' * 40}" in done.stderr
    assert leftovers(environment, "sdist") == []


def test_sdist_without_network_says_so_and_leaves_nothing(sdist):
    environment = sdist(PINS["LLAMA_CPP_COMMIT"])
    done = run("fetch_sdist.sh", OFFLINE="yes", **environment)
    assert done.returncode == 1
    assert "could not fetch llama_cpp_python-" in done.stderr
    assert leftovers(environment, "sdist") == []


@pytest.fixture
def archive(tmp_path):
    """A stand-in for mmdebstrap whose tar holds its own arguments, and a keyring for it."""
    write_program(
        tmp_path / "bin/mmdebstrap",
        """#!/bin/bash
        [ -z "${OFFLINE:-}" ] || exit 1
        root=$(mktemp -d)
        mkdir -p "$root"/{usr/lib,var,dev}
        touch "$root/usr/lib/libm.so.6"
        ln -s /usr/lib/libm.so.6 "$root/usr/lib/libm.so"
        printf '%s\\n' "$@" >"$root/usr/arguments"
        tar -c -C "$root" .
        rm -r "$root"
        """,
    )
    (tmp_path / "keys.gpg").touch()
    return {
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "LLAMAKILN_CACHE": str(tmp_path / "cache"),
        "ARCHIVE_KEYRING": str(tmp_path / "keys.gpg"),
    }


@pytest.mark.parametrize(
    ("suite", "words"),
    [
        ("bookworm", ["libstdc++-12-dev"]),
        ("jammy", ["libstdc++-11-dev", "ubuntu-ports jammy main", "ubuntu-ports jammy-updates main"]),
        ("noble", ["libstdc++-13-dev", "ubuntu-ports noble main"]),
    ],
)
def test_sysroot_is_of_the_release_that_was_asked_for(archive, suite, words):
    done = run("make_sysroot.sh", suite, **archive)
    assert done.returncode == 0, done.stderr
    root = Path(done.stdout.strip())
    assert root.name == run("make_sysroot.sh", "--print-key", suite, **archive).stdout.strip()
    assert {entry.name for entry in root.iterdir()} == {"usr", "lib"}
    arguments = (root / "usr/arguments").read_text()
    assert all(word in arguments for word in [suite, "--architectures=arm64", "--variant=extract", *words])
    assert run("make_sysroot.sh", suite, **archive, OFFLINE="yes").stdout == done.stdout


def test_sysroot_has_no_link_to_the_host(archive):
    """With libm.so leading nowhere the linker takes libm.a, which lacks symbols of its own."""
    root = Path(run("make_sysroot.sh", "bookworm", **archive).stdout.strip())
    assert (root / "usr/lib/libm.so").resolve() == root / "usr/lib/libm.so.6"


def test_sysroot_without_keys_is_refused(archive, tmp_path):
    done = run("make_sysroot.sh", "jammy", **{**archive, "ARCHIVE_KEYRING": str(tmp_path / "none.gpg")})
    assert done.returncode == 1
    assert "none.gpg is missing, so the packages of jammy cannot be verified" in done.stderr
    assert leftovers(archive, "sysroot") == []


def test_failed_sysroot_leaves_nothing(archive):
    done = run("make_sysroot.sh", "bookworm", **archive, OFFLINE="yes")
    assert done.returncode == 1
    assert "could not make the arm64 sysroot of bookworm" in done.stderr
    assert leftovers(archive, "sysroot") == []


def test_unknown_release_is_refused(archive):
    done = run("make_sysroot.sh", "warty", **archive)
    assert done.returncode == 1
    assert "SUITE='warty': must be bookworm, jammy or noble" in done.stderr


def test_scripts_say_how_they_are_called():
    for script in ("build", "fetch_sdist.sh", "find_ubuntu_keyring.sh", "make_sysroot.sh"):
        done = run(script, "--help")
        assert done.returncode == 0
        assert "usage: " in done.stdout + done.stderr


@pytest.fixture
def make_image(tmp_path):
    """A qcow2 with a small boot partition and a root file system that holds one file, as cloud images are laid out."""

    def make(file: str) -> dict[str, str]:
        tree = tmp_path / "tree"
        (tree / file).parent.mkdir(parents=True)
        (tree / file).write_bytes(b"archive keys")
        script = """
        PATH=$PATH:/usr/sbin
        mke2fs -q -t ext4 -d tree root.ext4 8M
        truncate -s 12M disk.raw
        printf 'label: gpt\\nstart=2048,size=2048\\nstart=4096,size=16384\\n' | sfdisk -q disk.raw
        dd if=root.ext4 of=disk.raw bs=512 seek=4096 conv=notrunc status=none
        qemu-img convert -O qcow2 disk.raw disk.qcow2
        """
        subprocess.run(["bash", "-euc", script], cwd=tmp_path, check=True)
        return {"HOST_KEYRING": str(tmp_path / "none.gpg"), "LLAMAKILN_CACHE": str(tmp_path / "cache")}

    if not shutil.which("qemu-img"):
        pytest.skip("qemu-utils is not installed; `make image` installs it")
    return make


def test_ubuntu_keys_come_out_of_the_verified_image(make_image, tmp_path):
    environment = make_image("usr/share/keyrings/ubuntu-archive-keyring.gpg")
    done = run("find_ubuntu_keyring.sh", str(tmp_path / "disk.qcow2"), **environment)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).read_bytes() == b"archive keys"
    assert run("find_ubuntu_keyring.sh", str(tmp_path / "disk.qcow2"), **environment).stdout == done.stdout


def test_image_without_ubuntu_keys_is_refused(make_image, tmp_path):
    environment = make_image("usr/share/keyrings/other.gpg")
    done = run("find_ubuntu_keyring.sh", str(tmp_path / "disk.qcow2"), **environment)
    assert done.returncode == 1
    assert "holds no /usr/share/keyrings/ubuntu-archive-keyring.gpg" in done.stderr
    assert leftovers(environment, "keyring") == []


def test_host_s_ubuntu_keys_are_taken_if_there(tmp_path):
    (tmp_path / "keys.gpg").touch()
    done = run("find_ubuntu_keyring.sh", "no-image", HOST_KEYRING=str(tmp_path / "keys.gpg"))
    assert done.stdout.strip() == str(tmp_path / "keys.gpg")
