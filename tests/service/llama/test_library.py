"""Which library set is taken on which CPU, and what is said when none will do."""

import ctypes
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import ConfigError
from service.llama import library
from service.llama.library import LibrarySet, check_match, choose_library, read_cpu_features, read_sets

REPOSITORY = Path(__file__).resolve().parents[3]
A1 = ["fp", "asimd", "aes", "crc32", "atomics", "fphp", "asimdhp", "asimdrdm", "lrcpc", "asimddp"]
A2 = [*A1, "jscvt", "fcma", "ilrcpc", "flagm", "bf16", "i8mm"]
A1_NEEDS = ["asimddp", "asimdhp"]
A2_NEEDS = [*A1_NEEDS, "bf16", "i8mm"]


def describe(name: str, **changes) -> dict:
    row = {
        "name": name,
        "machine": "aarch64",
        "blas": name.endswith("-blas"),
        "features": A2_NEEDS if "-a2" in name else A1_NEEDS,
        "rank": 2 if "-a2" in name else 1,
        "llama_cpp_python": "0.3.36",
        "llama_cpp_commit": "0c1e57098",
        "sdist_sha256": "0" * 64,
    }
    return {**row, **changes}


@pytest.fixture
def lib_dir(tmp_path):
    """A directory with the four sets of the image."""
    for name in ("arm64-a1", "arm64-a1-blas", "arm64-a2", "arm64-a2-blas"):
        write_set(tmp_path, describe(name))
    return tmp_path


def write_set(lib_dir: Path, row: dict) -> Path:
    folder = lib_dir / row["name"]
    folder.mkdir()
    (folder / "set.json").write_text(json.dumps(row))
    return folder


@pytest.mark.parametrize(
    ("cpu", "blas", "name"),
    [
        (A2, "auto", "arm64-a2"),
        (A2, "off", "arm64-a2"),
        (A2, "on", "arm64-a2-blas"),
        (A1, "auto", "arm64-a1"),
        (A1, "off", "arm64-a1"),
        (A1, "on", "arm64-a1-blas"),
    ],
)
def test_best_set_for_the_cpu_is_chosen(lib_dir, cpu, blas, name):
    """auto is without OpenBLAS: it slows k-quants."""
    chosen = choose_library(lib_dir, blas, "aarch64", frozenset(cpu))
    assert (chosen.name, chosen.path) == (name, lib_dir / name)


def test_auto_takes_openblas_rather_than_nothing(tmp_path):
    write_set(tmp_path, describe("arm64-a1-blas"))
    assert choose_library(tmp_path, "auto", "aarch64", frozenset(A1)).name == "arm64-a1-blas"


def test_auto_prefers_cpu_level_to_freedom_from_openblas(tmp_path):
    write_set(tmp_path, describe("arm64-a1"))
    write_set(tmp_path, describe("arm64-a2-blas"))
    assert choose_library(tmp_path, "auto", "aarch64", frozenset(A2)).name == "arm64-a2-blas"


@pytest.mark.parametrize(
    ("machine", "cpu", "blas", "words"),
    [
        ("x86_64", ["avx2"], "auto", ["arm64-a1 is for aarch64, this is x86_64"]),
        ("aarch64", ["fp", "asimd"], "auto", ["arm64-a1 needs asimddp asimdhp, which this CPU lacks", "bf16 i8mm"]),
        ("aarch64", ["asimdhp"], "on", ["arm64-a1-blas needs asimddp,", "and has no OpenBLAS, but LLM_BLAS=on"]),
    ],
)
def test_misfit_names_what_each_set_lacks(lib_dir, machine, cpu, blas, words):
    with pytest.raises(ConfigError) as caught:
        choose_library(lib_dir, blas, machine, frozenset(cpu))
    message = str(caught.value)
    assert message.startswith(f"LLM_LIB_DIR={lib_dir}: no library set fits: ")
    assert all(each in message for each in words)


def test_wrong_openblas_is_the_only_thing_said_when_it_is_the_only_fault(tmp_path):
    write_set(tmp_path, describe("arm64-a1"))
    with pytest.raises(ConfigError, match=r"fits: arm64-a1 has no OpenBLAS, but LLM_BLAS=on$"):
        choose_library(tmp_path, "on", "aarch64", frozenset(A1))


def test_empty_directory_is_said_to_be_empty(tmp_path):
    with pytest.raises(ConfigError, match="it holds none"):
        choose_library(tmp_path, "auto", "aarch64", frozenset(A2))


@pytest.mark.parametrize("text", ["", "[]", '{"name": "arm64-a1"}', "\N{SNOWMAN}"])
def test_broken_description_is_named(lib_dir, text):
    file = lib_dir / "arm64-a2" / "set.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=f"{file}: not the description of a library set"):
        read_sets(lib_dir)


@settings(deadline=None)  # it writes files
@given(cpu=st.sets(st.sampled_from(A2)), blas=st.sampled_from(["on", "off", "auto"]))
def test_chosen_set_never_needs_more_than_the_cpu_has(tmp_path_factory, cpu, blas):
    """The other choice is SIGILL."""
    lib_dir = tmp_path_factory.mktemp("lib")
    for name in ("arm64-a1", "arm64-a2", "arm64-a2-blas"):
        write_set(lib_dir, describe(name))
    rows = read_sets(lib_dir)
    fitting = [row for row in rows if row.features <= cpu and blas in ("auto", "on" if row.blas else "off")]
    if fitting:
        chosen = choose_library(lib_dir, blas, "aarch64", cpu)
        assert chosen in fitting
        assert chosen.rank == max(row.rank for row in fitting)
    else:
        with pytest.raises(ConfigError):
            choose_library(lib_dir, blas, "aarch64", cpu)


@pytest.mark.parametrize(
    ("cpuinfo", "features"),
    [
        ("processor\t: 0\nFeatures\t: fp i8mm\n\nprocessor\t: 1\nFeatures\t: fp i8mm\n", {"fp", "i8mm"}),
        ("Features\t: fp i8mm\nFeatures\t: fp\n", {"fp"}),
        ("vendor_id\t: GenuineIntel\nflags\t\t: fpu avx2\nvmx flags\t: vnmi\n", {"fpu", "avx2"}),
        ("", set()),
    ],
)
def test_features_are_those_of_every_core(cpuinfo, features):
    assert read_cpu_features(cpuinfo) == features


def test_this_machine_s_features_can_be_read():
    assert read_cpu_features(Path("/proc/cpuinfo").read_text()) & {"fpu", "asimd"}


def a_set(path: Path) -> LibrarySet:
    return LibrarySet(path, "arm64-a1", "aarch64", False, frozenset(), 1, "0.3.36", "0c1e57098")


def test_matching_binding_and_library_are_accepted(tmp_path):
    check_match(a_set(tmp_path), "0.3.36", "0c1e57098")


@pytest.mark.parametrize(
    ("version", "commit", "words"),
    [
        ("0.3.35", "0c1e57098", "made for llama-cpp-python 0.3.36, not 0.3.35"),
        ("0.3.36", "unknown", "libllama says commit unknown, set.json says 0c1e57098"),
    ],
)
def test_mismatch_of_binding_and_library_is_refused(tmp_path, version, commit, words):
    with pytest.raises(ConfigError, match=words) as caught:
        check_match(a_set(tmp_path), version, commit)
    assert len(caught.value.faults) == 1


@pytest.fixture
def host_set(tmp_path):
    """A set for this machine whose libllama is three lines of C."""
    folder = write_set(tmp_path, describe("host", machine=platform.machine(), features=[], blas=False))
    source = folder / "commit.c"
    source.write_text('const char * ggml_commit(void) { return "0c1e57098"; }\n')
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / "libllama.so", source], check=True)
    return tmp_path


def test_load_points_the_binding_at_the_chosen_set(host_set, monkeypatch, caplog):
    monkeypatch.setenv(library.LIB_PATH_VARIABLE, "elsewhere")
    monkeypatch.setattr(library, "read_binding_version", lambda: "0.3.36")
    monkeypatch.delitem(sys.modules, "llama_cpp", raising=False)
    with caplog.at_level("INFO"):
        chosen = library.load(host_set, "auto")
    assert os.environ[library.LIB_PATH_VARIABLE] == str(chosen.path) == str(host_set / "host")
    assert "library set host (LLM_BLAS=auto), llama.cpp 0c1e57098" in caplog.text


def test_load_refuses_a_library_of_another_commit(host_set, monkeypatch):
    row = describe("host", machine=platform.machine(), features=[], blas=False, llama_cpp_commit="fffffffff")
    (host_set / "host" / "set.json").write_text(json.dumps(row))
    monkeypatch.setattr(library, "read_binding_version", lambda: "0.3.36")
    monkeypatch.delitem(sys.modules, "llama_cpp", raising=False)
    with pytest.raises(ConfigError, match="libllama says commit 0c1e57098"):
        library.load(host_set, "auto")


def test_version_of_the_binding_is_the_one_its_package_says():
    assert library.read_binding_version() == importlib.metadata.version("llama-cpp-python")


def test_missing_binding_is_named(monkeypatch):
    monkeypatch.setattr(library.importlib.util, "find_spec", lambda name: None)
    library.read_binding_version.cache_clear()
    with pytest.raises(ConfigError, match="llama-cpp-python is not installed"):
        library.read_binding_version()


def test_load_after_the_binding_is_our_own_mistake(host_set, monkeypatch):
    monkeypatch.setitem(sys.modules, "llama_cpp", ctypes)
    with pytest.raises(AssertionError, match="before a library set was chosen"):
        library.load(host_set, "auto")


@pytest.mark.parametrize("content", [None, b"not a library"])
def test_library_that_cannot_be_loaded_is_named(tmp_path, content):
    if content:
        (tmp_path / "libllama.so").write_bytes(content)
    with pytest.raises(ConfigError, match=f"{tmp_path}/libllama.so: cannot be used"):
        library.read_commit(a_set(tmp_path))


def test_library_without_a_commit_is_named(tmp_path):
    (tmp_path / "empty.c").write_text("")
    subprocess.run(["cc", "-shared", "-o", tmp_path / "libllama.so", tmp_path / "empty.c"], check=True)
    with pytest.raises(ConfigError, match="ggml_commit"):
        library.read_commit(a_set(tmp_path))


@pytest.fixture
def node(tmp_path):
    """The part of /opt/llamakiln that the wrappers use, with a tool that says which set it is and how it was called."""
    (tmp_path / "bin").mkdir()
    for name in ("llama-bench", "llama-cli"):
        wrapper = REPOSITORY / "packer/files/opt/llamakiln/bin" / name
        (tmp_path / "bin" / name).write_bytes(wrapper.read_bytes())
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "venv/bin").mkdir(parents=True)
    (tmp_path / "venv/bin/python").symlink_to(sys.executable)
    (tmp_path / "service").symlink_to(REPOSITORY / "service")
    (tmp_path / "lib").mkdir()
    for name in ("host", "host-blas"):
        folder = write_set(tmp_path / "lib", describe(name, machine=platform.machine(), features=[]))
        for tool in ("llama-bench", "llama-cli"):
            (folder / tool).write_text(f'#!/bin/sh\necho {name} {tool} "$@"\n')
            (folder / tool).chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(
    ("settings", "environment", "name"),
    [
        (None, {}, "host"),
        ("# LLM_BLAS=on\n", {}, "host"),
        ("LLM_BLAS=on\n", {}, "host-blas"),
        ("LLM_BLAS=off\n", {"LLM_BLAS": "on"}, "host-blas"),
    ],
)
@pytest.mark.parametrize("tool", ["llama-bench", "llama-cli"])
def test_wrapper_runs_the_tool_of_the_service_s_set(node, tool, settings, environment, name):
    if settings is not None:
        (node / "llm.env").write_text(settings)
    clean = {k: v for k, v in os.environ.items() if not k.startswith("LLM_")}
    environment = {**clean, "LLM_ENV_FILE": str(node / "llm.env"), **environment}
    said = subprocess.check_output([node / "bin" / tool, "-m", "a b"], env=environment, text=True)
    assert said == f"{name} {tool} -m a b\n"


def test_wrapper_says_why_no_set_fits(node):
    for file in (node / "lib").glob("*/set.json"):
        file.write_text(file.read_text().replace('"features": []', '"features": ["warp"]'))
    done = subprocess.run([node / "bin/llama-bench"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "host needs warp, which this CPU lacks" in done.stderr


def test_chosen_set_is_told_by_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(library.LIB_PATH_VARIABLE, raising=False)
    assert library.read_chosen() is None
    monkeypatch.setenv(library.LIB_PATH_VARIABLE, "/somewhere/native")
    assert library.read_chosen() == "native"
