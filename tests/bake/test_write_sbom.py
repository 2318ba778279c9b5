from __future__ import annotations

import json
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from scripts.bake import write_sbom
from scripts.files import REPOSITORY
from scripts.models.catalog import Model, load_catalog
from scripts.problem import Problem

DPKG = """libc6\t2.35-0ubuntu3.11\tarm64\tglibc
libopenblas0-pthread\t0.3.20+ds-1\tarm64\topenblas
nginx\t1.18.0-6ubuntu14.7\tall\tnginx
libstdc++6\t12.3.0-1ubuntu1~22.04\tarm64\tgcc-12
perl-base\t5.34.0-3ubuntu1.4\tarm64\tperl
"""
PIP = [{"name": "bottle", "version": "0.13.4"}, {"name": "llama_cpp_python", "version": "0.3.36"}]
SET = {
    "name": "arm64-a2",
    "blas": False,
    "llama_cpp_python": "0.3.36",
    "llama_cpp_commit": "0c1e57098",
    "sdist_sha256": "8" * 64,
}
BLAS_SET = {**SET, "name": "arm64-a2-blas", "blas": True}


@pytest.fixture
def inputs(tmp_path) -> dict[str, Path]:
    contents = {
        "dpkg.tsv": DPKG,
        "pip.json": json.dumps(PIP),
        "a2.json": json.dumps(SET),
        "a2-blas.json": json.dumps(BLAS_SET),
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    return {name.split(".")[0]: tmp_path / name for name in contents}


@pytest.fixture
def write(run_script, inputs, tmp_path):
    def run(model: str = "tinyllama-q4_0", base: str = "ubuntu-22.04", **variables: str):
        out = tmp_path / "build" / "image.cdx.json"
        arguments = ["--version", "0.1.0", "--base", base, "--model", model, "--out", out]
        arguments += ["--dpkg", inputs["dpkg"], "--pip", inputs["pip"], "--sets", inputs["a2"], inputs["a2-blas"]]
        return run_script("bake.write_sbom", *arguments, **variables), out

    return run


def build(**changes) -> dict:
    inputs = {
        "version": "0.1.0",
        "base": "ubuntu-22.04",
        "model": load_catalog()["tinyllama-q4_0"],
        "dpkg": DPKG,
        "pip": json.dumps(PIP),
        "sets": [SET, BLAS_SET],
        **changes,
    }
    return write_sbom.build_sbom(**inputs)


def by_name(document: dict) -> dict[str, dict]:
    return {component["name"]: component for component in document["components"]}


def test_document_is_valid_cyclonedx(write):
    done, out = write()
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(out)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(out.read_text()) is None


def test_validator_of_this_test_can_fail():
    broken = json.dumps({**build(), "components": [{"type": "lib", "name": "x"}]})
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(broken) is not None


def test_what_scanners_do_not_see_is_listed():
    parts = by_name(build())
    engine = parts["llama.cpp"]
    assert engine["purl"] == "pkg:github/ggml-org/llama.cpp@0c1e57098"
    assert {"name": "llamakiln:taken_from_sha256", "value": "8" * 64} in engine["properties"]
    headers = [path.name for path in (REPOSITORY / "scripts/libllama/kernels").glob("*.h")]
    changed = sorted(["amx/amx.cpp", "amx/mmq.cpp", *headers, "ops.cpp", "repack.cpp"])
    notes = ", ".join(f"ggml/src/ggml-cpu/{name}" for name in changed)
    assert engine["pedigree"]["notes"] == f"{notes}: by scripts/libllama/patch.py"
    assert parts["OpenBLAS"]["version"] == "0.3.20"
    assert parts["llama-cpp-python"]["hashes"] == [{"alg": "SHA-256", "content": "8" * 64}]
    weights = parts["tinyllama-1.1b-chat-v1.0.Q4_0.gguf"]
    assert weights["type"] == "machine-learning-model"
    assert weights["hashes"][0]["content"].startswith("da3087fb")
    assert weights["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert weights["version"] == "52e7645ba7c309695bec7ac98f4f005b139cf465"
    assert weights["purl"].startswith("pkg:huggingface/TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF@52e7645b")
    assert weights["externalReferences"][0]["url"].endswith("/tinyllama-1.1b-chat-v1.0.Q4_0.gguf")


def test_libraries_of_the_page_are_listed():
    purify = by_name(build())["dompurify"]
    assert purify["purl"] == f"pkg:npm/dompurify@{purify['version']}"
    assert purify["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert len(purify["hashes"][0]["content"]) == 64


def test_packages_have_purls_with_distribution_and_source():
    parts = by_name(build())
    assert parts["libc6"]["purl"] == (
        "pkg:deb/ubuntu/libc6@2.35-0ubuntu3.11?arch=arm64&distro=ubuntu-22.04&upstream=glibc"
    )
    assert parts["nginx"]["purl"] == "pkg:deb/ubuntu/nginx@1.18.0-6ubuntu14.7?arch=all&distro=ubuntu-22.04"
    assert "libstdc%2B%2B6@" in parts["libstdc++6"]["purl"]
    assert parts["bottle"]["purl"] == "pkg:pypi/bottle@0.13.4"
    assert parts["ubuntu"]["type"] == "operating-system"


def test_licence_that_is_no_spdx_name_is_a_plain_name():
    parts = by_name(build(model=load_catalog()["llama-3.2-1b-q4_k_m"]))
    licenses = parts["Llama-3.2-1B-Instruct-Q4_K_M.gguf"]["licenses"]
    assert licenses == [{"license": {"name": "Llama 3.2 Community License"}}]


def test_model_of_our_own_has_no_hub_address():
    demo = Model("demo", "demo.gguf", "d" * 64, 9, "Apache-2.0", "gguf", 512, path="packer/models/demo.gguf")
    document = build(model=demo)
    weights = by_name(document)["demo.gguf"]
    assert weights["purl"].startswith("pkg:generic/llamakiln-demo@0.1.0?checksum=sha256:dddd")
    assert "externalReferences" not in weights
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document)) is None


def test_every_dependency_names_a_component():
    document = build()
    known = {component["bom-ref"] for component in document["components"]}
    known.add(document["metadata"]["component"]["bom-ref"])
    for dependency in document["dependencies"]:
        assert {dependency["ref"], *dependency["dependsOn"]} <= known
    uses = {dependency["ref"]: dependency["dependsOn"] for dependency in document["dependencies"]}
    assert uses["pkg:pypi/llama-cpp-python@0.3.36"] == ["pkg:github/ggml-org/llama.cpp@0c1e57098"]


def test_set_without_blas_needs_no_openblas():
    assert "OpenBLAS" not in by_name(build(sets=[SET], dpkg=DPKG.replace("libopenblas0-pthread", "libfoo")))


@pytest.mark.parametrize(
    ("version", "upstream"), [("0.3.20+ds-1", "0.3.20"), ("0.3.21+ds-4", "0.3.21"), ("1:0.3.26-2", "0.3.26")]
)
def test_upstream_version_is_cut_out_of_debians(version, upstream):
    parts = by_name(build(dpkg=DPKG.replace("0.3.20+ds-1", version)))
    assert parts["OpenBLAS"]["version"] == upstream


def test_same_inputs_and_epoch_give_the_same_bytes_in_any_order(write, inputs):
    _, out = write(SOURCE_DATE_EPOCH="1700000000")
    first = out.read_bytes()
    inputs["dpkg"].write_text("\n".join(reversed(DPKG.splitlines())) + "\n")
    inputs["pip"].write_text(json.dumps(PIP[::-1]))
    write(SOURCE_DATE_EPOCH="1700000000")
    assert out.read_bytes() == first
    assert json.loads(first)["metadata"]["timestamp"] == "2023-11-14T22:13:20Z"


def test_serial_number_follows_the_content_and_not_the_time(write):
    serials = []
    for epoch, base in (("1", "ubuntu-22.04"), ("2", "ubuntu-22.04"), ("2", "debian-12")):
        _, out = write(base=base, SOURCE_DATE_EPOCH=epoch)
        serials.append(json.loads(out.read_text())["serialNumber"])
    assert serials[0] == serials[1] != serials[2]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"dpkg": "libc6 2.35\n"}, "dpkg list, line 1: 'libc6 2.35': must be package, version"),
        ({"dpkg": DPKG + "x\t\tarm64\tx\n"}, "dpkg list, line 6"),
        ({"dpkg": ""}, "dpkg list: is empty"),
        ({"dpkg": "libc6\t2.35\tarm64\tglibc\n"}, "has no libopenblas0 package"),
        ({"pip": "{}"}, "pip list: has no llama-cpp-python"),
        ({"pip": "[1]"}, "pip list: not what"),
        ({"pip": "<"}, "pip list: not what"),
        ({"sets": []}, "at least one set.json"),
        ({"sets": [{"name": "a"}]}, "library set: has no 'llama_cpp_commit'"),
        ({"sets": [SET, {**BLAS_SET, "llama_cpp_commit": "f" * 9}]}, "must come from one llama.cpp"),
        ({"sets": [{**SET, "sdist_sha256": "832d"}]}, "sdist_sha256 = '832d': must be 64"),
        ({"base": "ubuntu"}, "base 'ubuntu': must be DISTRIBUTION-VERSION"),
    ],
)
def test_wrong_input_is_named(changes, expected):
    with pytest.raises(Problem) as caught:
        build(**changes)
    assert expected in caught.value.message


def test_unknown_model_and_missing_file_are_told_without_a_traceback(write, inputs):
    done, out = write(model="tinylama-q4_0")
    assert done.returncode == 1 and "did you mean tinyllama-q4_0?" in done.stderr
    inputs["a2"].unlink()
    done, _ = write()
    assert done.returncode == 1 and "cannot read" in done.stderr and "Traceback" not in done.stderr
    assert not out.exists()
