"""Write the image's software bill of materials as CycloneDX 1.6 JSON.

Joins what package managers on the image list (dpkg, pip) with what no scanner sees: llama.cpp, the OpenBLAS it is
linked with, the page's JavaScript libraries, and the model itself. Knows components, package URLs and the order of the
file. Knows nothing of how the lists were made, and asks no network: a licence that nobody stated stays unstated.

  --dpkg    dpkg-query -W -f='${Package}\\t${Version}\\t${Architecture}\\t${source:Package}\\n' on the image
  --pip     pip list --format=json in the image's venv
  --sets    the set.json of each library set on the image

The same inputs and SOURCE_DATE_EPOCH give the same bytes; the serial number is derived from the content.
Exit codes: 0 done, 1 a problem (told on stderr), 2 wrong command line.
"""

from __future__ import annotations

import argparse
import json
import re
import uuid
from collections.abc import Sequence
from pathlib import Path

from cyclonedx.spdx import is_supported_id
from packageurl import PackageURL

from ..files import REPOSITORY, replacing
from ..libllama import patch
from ..models import catalog
from ..problem import Problem, run
from .write_manifest import creation_time

SPEC_VERSION = "1.6"
LLAMA_CPP = "ggml-org/llama.cpp"
PAGE_LIBRARIES = REPOSITORY / "service" / "static" / "vendor" / "vendor.json"
OPENBLAS_PACKAGE = re.compile(r"libopenblas0.*")  # Debian and Ubuntu: libopenblas0, libopenblas0-pthread, ...


def _purl(kind: str, name: str, version: str, namespace: str = "", **qualifiers: str) -> str:
    return PackageURL(kind, namespace or None, name, version, qualifiers or None).to_string()


def _component(kind: str, name: str, version: str, purl: str, **more: object) -> dict:
    return {"type": kind, "bom-ref": purl, "name": name, "version": version, "purl": purl, **more}


def _licenses(license: str) -> list[dict]:
    return [{"license": {"id": license} if is_supported_id(license) else {"name": license}}]


def _hashes(sha256: str) -> list[dict]:
    return [{"alg": "SHA-256", "content": sha256}]


def read_dpkg(text: str, base: str) -> list[dict]:
    """Components of the dpkg list's lines; `base` as in 'ubuntu-22.04' goes into each package URL."""
    distribution = base.split("-", 1)[0]
    components = []
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split("\t")
        if len(fields) != 4 or not all(fields[:3]):
            raise Problem(
                f"dpkg list, line {number}: {line!r}: must be package, version, architecture, source; by tabs"
            )
        name, version, architecture, source = fields
        upstream = {"upstream": source} if source not in ("", name) else {}
        purl = _purl("deb", name, version, distribution, arch=architecture, distro=base, **upstream)
        components.append(_component("library", name, version, purl))
    if not components:
        raise Problem("dpkg list: is empty, so it was not made on an image")
    return components


def read_pip(text: str, sdist_sha256: str) -> list[dict]:
    """Components of pip's JSON list; llama-cpp-python carries the hash of the source distribution it was built from."""
    try:
        packages = {re.sub(r"[-_.]+", "-", entry["name"]).lower(): entry["version"] for entry in json.loads(text)}
    except (ValueError, TypeError, KeyError) as error:
        raise Problem(f"pip list: not what `pip list --format=json` prints: {error!r}") from error
    if "llama-cpp-python" not in packages:
        raise Problem("pip list: has no llama-cpp-python, so it is not from the image's venv")
    components = []
    for name, version in packages.items():
        hashes = {"hashes": _hashes(sdist_sha256)} if name == "llama-cpp-python" else {}
        components.append(_component("library", name, version, _purl("pypi", name, version), **hashes))
    return components


def llama_cpp(sets: Sequence[dict]) -> dict:
    """The one llama.cpp that all library sets were built from; raises Problem when they differ."""
    try:
        origins = {(entry["llama_cpp_commit"], entry["llama_cpp_python"], entry["sdist_sha256"]) for entry in sets}
    except KeyError as error:
        raise Problem(f"library set: has no {error}") from error
    if len(origins) != 1:
        raise Problem(f"library sets: must come from one llama.cpp, these from {sorted(origins)}")
    commit, binding, sdist_sha256 = origins.pop()
    if not re.fullmatch(r"[0-9a-f]{64}", str(sdist_sha256)):
        raise Problem(f"library set: sdist_sha256 = {sdist_sha256!r}: must be 64 lower-case hexadecimal digits")
    origin = [
        {"name": "llamakiln:library_sets", "value": ", ".join(sorted(entry["name"] for entry in sets))},
        {"name": "llamakiln:taken_from", "value": f"vendor/llama.cpp of llama_cpp_python-{binding}.tar.gz"},
        {"name": "llamakiln:taken_from_sha256", "value": sdist_sha256},
    ]
    owner, name = LLAMA_CPP.split("/")
    purl = _purl("github", name, commit, owner)
    files = ", ".join(str(file) for file in patch.files())
    change = {"patches": [{"type": "unofficial"}], "notes": f"{files}: by scripts/libllama/patch.py"}
    return _component("library", name, commit, purl, licenses=_licenses("MIT"), properties=origin, pedigree=change)


def openblas(packages: Sequence[dict]) -> dict:
    """OpenBLAS as its makers name it, at the upstream version of the installed package."""
    for package in packages:
        if OPENBLAS_PACKAGE.fullmatch(package["name"]):
            version = re.sub(r"^\d+:|[-+](ds|dfsg).*$|-[^-]*$", "", package["version"])
            origin = [{"name": "llamakiln:installed_as", "value": package["purl"]}]
            purl = _purl("github", "OpenBLAS", f"v{version}", "OpenMathLib")
            return _component(
                "library", "OpenBLAS", version, purl, licenses=_licenses("BSD-3-Clause"), properties=origin
            )
    raise Problem("a library set uses OpenBLAS, but the dpkg list has no libopenblas0 package")


def model_component(model: catalog.Model, version: str) -> dict:
    """The GGUF: where it came from, its licence and its checksum. `version` is the image's, for a model of our own."""
    if model.path:
        purl = _purl("generic", f"llamakiln-{model.name}", version, checksum=f"sha256:{model.sha256}")
        return _component(
            "machine-learning-model", model.file_name, version, purl, hashes=_hashes(model.sha256),
            licenses=_licenses(model.license),
        )  # fmt: skip
    owner, name = model.repo.split("/")
    purl = _purl("huggingface", name, model.revision, owner, file_name=model.file_name)
    source = f"https://huggingface.co/{model.repo}/resolve/{model.revision}/{model.file}"
    return _component(
        "machine-learning-model", model.file_name, model.revision, purl, hashes=_hashes(model.sha256),
        licenses=_licenses(model.license), externalReferences=[{"type": "distribution", "url": source}],
    )  # fmt: skip


def read_page_libraries() -> list[dict]:
    """The JavaScript libraries that are files of the page."""
    return [
        _component(
            "library", row["name"], row["version"], _purl("npm", row["name"], row["version"]),
            hashes=_hashes(row["sha256"]), licenses=_licenses(row["license"]),
        )
        for row in json.loads(PAGE_LIBRARIES.read_text())
    ]  # fmt: skip


def build_sbom(version: str, base: str, model: catalog.Model, dpkg: str, pip: str, sets: Sequence[dict]) -> dict:
    """The whole document as a dict, without a time; raises Problem. `base` is a name such as 'ubuntu-22.04'."""
    if not re.fullmatch(r"[a-z]+-[0-9.]+", base):
        raise Problem(f"base {base!r}: must be DISTRIBUTION-VERSION, for example ubuntu-22.04")
    if not sets:
        raise Problem("library sets: at least one set.json is needed")
    packages = read_dpkg(dpkg, base)
    engine = llama_cpp(sets)
    python = read_pip(pip, sets[0]["sdist_sha256"])
    binding = next(component for component in python if component["name"] == "llama-cpp-python")
    blas = [openblas(packages)] if any(entry.get("blas") for entry in sets) else []
    page = read_page_libraries()
    weights = model_component(model, version)
    os_name, os_version = base.split("-", 1)
    system = {"type": "operating-system", "bom-ref": f"os:{base}", "name": os_name, "version": os_version}

    components = {entry["bom-ref"]: entry for entry in (system, weights, engine, *blas, *page, *python, *packages)}
    image = _component(
        "application", f"llamakiln-{model.name}", version, _purl("generic", f"llamakiln-{model.name}-arm64", version)
    )
    dependencies = {
        image["bom-ref"]: [system["bom-ref"], weights["bom-ref"], *(entry["bom-ref"] for entry in (*page, *python))],
        system["bom-ref"]: [entry["bom-ref"] for entry in packages],
        binding["bom-ref"]: [engine["bom-ref"]],
        engine["bom-ref"]: [entry["bom-ref"] for entry in blas],
    }
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "version": 1,
        "metadata": {"component": image, "properties": [{"name": "llamakiln:base", "value": base}]},
        "components": [components[ref] for ref in sorted(components)],
        "dependencies": [{"ref": ref, "dependsOn": sorted(set(on))} for ref, on in sorted(dependencies.items())],
    }
    content = json.dumps(document, sort_keys=True)
    return {**document, "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, content)}"}


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(f"cannot read {file}: {error}") from error


def _read_set(file: Path) -> dict:
    try:
        entry = json.loads(_read(file))
    except ValueError as error:
        raise Problem(f"{file} is not JSON: {error}") from error
    if not isinstance(entry, dict):
        raise Problem(f"{file}: must hold an object")
    return entry


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", required=True, help="the image's version, as in packer/versions.env")
    parser.add_argument("--base", required=True, help="what the image is based on, for example ubuntu-22.04")
    parser.add_argument("--model", required=True, help="a row of packer/models.toml")
    parser.add_argument("--dpkg", required=True, type=Path, metavar="FILE")
    parser.add_argument("--pip", required=True, type=Path, metavar="FILE")
    parser.add_argument("--sets", required=True, type=Path, nargs="+", metavar="SET.JSON")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="the SBOM to write: *.cdx.json")
    parser.add_argument("--catalog", type=Path, default=catalog.CATALOG, help="default: %(default)s")
    options = parser.parse_args()
    model = catalog.find_model(options.model, catalog.load_catalog(options.catalog))
    sets = [_read_set(file) for file in options.sets]
    document = build_sbom(options.version, options.base, model, _read(options.dpkg), _read(options.pip), sets)
    document["metadata"]["timestamp"] = creation_time()
    with replacing(options.out) as out:
        out.write(json.dumps(document, indent=1, sort_keys=True).encode() + b"\n")
    print(options.out)


if __name__ == "__main__":
    run(main)
