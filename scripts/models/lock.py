"""Pin a model of a hub as a row of packer/models.toml.

Reads the commit behind the revision, the file's size and sha256, the licence and the context length from the hub, and
appends one row; the rest of the file keeps every byte. Downloads nothing: the next fetch proves the row. Knows nothing
of the cache. What the hub does not tell must be given as an option.

Honours HF_ENDPOINT and HF_TOKEN. Exit codes: 0 done, 1 a problem (told on stderr), 2 wrong command line.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import tomlkit

from ..files import replacing
from ..problem import Problem, run
from . import catalog, hub

# A longer context costs memory for every stream, so a new row starts here even where the model was trained for more.
CONTEXT_DEFAULT = 4096
# Hubs write licences in lower case; the catalogue uses the SPDX spelling.
SPDX = {"apache-2.0": "Apache-2.0", "mit": "MIT", "bsd-3-clause": "BSD-3-Clause", "cc-by-4.0": "CC-BY-4.0"}


def derive_name(file: str) -> str:
    """A row's name from a file's: 'a/Tiny-1.1b.Q4_K_M.gguf' -> 'tiny-1.1b-q4_k_m'."""
    stem = file.rsplit("/", 1)[-1].removesuffix(".gguf").lower()
    stem = re.sub(r"[._-](i?q\d\w*|b?f16|f32|mxfp4)$", r"-\1", stem)
    return re.sub(r"-*[^a-z0-9._-]+-*", "-", stem).strip("-._")


def add_row(text: str, name: str, fields: dict[str, str | int], source: str) -> str:
    """The catalogue's text with one more row at the end; raises Problem when the row is there already or is wrong."""
    models = catalog.parse_catalog(text, source)
    if name in models:
        raise Problem(f"[{name}] is already in {source}", "give another name: NAME=<name>, or remove the row first")
    for model in models.values():
        if model.sha256 == fields["sha256"]:
            raise Problem(f"{source} already has this very file as [{model.name}]", f"make image MODEL={model.name}")
    document = tomlkit.parse(text)
    row = tomlkit.table()
    for field, value in fields.items():
        row.add(field, value)
    if document:
        document.add(tomlkit.nl())
    document.add(tomlkit.key(name), row)
    result = tomlkit.dumps(document)
    catalog.parse_catalog(result, source)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repo", help="OWNER/NAME on the hub")
    parser.add_argument("file", help="the GGUF file in it")
    parser.add_argument("--revision", default="main", help="commit, branch or tag to pin (default: %(default)s)")
    parser.add_argument("--name", help="the row's name (default: from the file's name)")
    parser.add_argument("--license", help="needed where the model card names none")
    parser.add_argument("--template", choices=catalog.TEMPLATES, help="needed where the file carries no chat template")
    parser.add_argument(
        "--context", type=int, help=f"tokens (default: what it was trained for, at most {CONTEXT_DEFAULT})"
    )
    parser.add_argument("--catalog", type=Path, default=catalog.CATALOG, help="default: %(default)s")
    options = parser.parse_args()

    if re.search(r"-\d{5}-of-\d{5}\.gguf$", options.file):
        raise Problem(f"FILE={options.file} is one part of a split model", "choose a model in a single file")
    name = options.name or derive_name(options.file)
    if fault := catalog.check_name(name):
        raise Problem(fault, "give a name: NAME=<name>")
    text = options.catalog.read_text(encoding="utf-8") if options.catalog.exists() else ""
    known = hub.describe(options.repo, options.file, options.revision)
    license = options.license or SPDX.get(known.license, known.license)
    if not license:
        raise Problem(
            f"the model card of {options.repo} names no licence", "read it yourself and give --license <name>"
        )
    if not options.template and not known.has_template:
        raise Problem(
            f"the hub knows of no chat template inside {options.file}",
            f"--template gguf if the file has one all the same; otherwise one of {', '.join(catalog.TEMPLATES)}",
        )
    fields = {
        "repo": options.repo,
        "revision": known.commit,
        "file": options.file,
        "sha256": known.sha256,
        "bytes": known.bytes,
        "license": license,
        "template": options.template or "gguf",
        "context": options.context or min(known.context or CONTEXT_DEFAULT, CONTEXT_DEFAULT),
    }
    result = add_row(text, name, fields, str(options.catalog))
    with replacing(options.catalog) as out:
        out.write(result.encode())
    print(f"added [{name}] to {options.catalog}: {known.bytes} bytes, sha256 {known.sha256}", file=sys.stderr)
    if known.is_gated:
        print(f"{options.repo} is gated: fetching needs HF_TOKEN and an accepted licence", file=sys.stderr)
    print(name)


if __name__ == "__main__":
    run(main)
