"""Read what a person wrote for the OCI bake: a pkrvars file, completed by the defaults of packer/oci/variables.pkr.hcl.

Knows Packer's variable files. Knows nothing of what the values mean: Packer's validation and preflight.py judge them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hcl2
from lark.exceptions import LarkError

from ..files import REPOSITORY
from ..problem import Problem

DECLARATIONS = REPOSITORY / "packer/oci/variables.pkr.hcl"
EXAMPLE = "packer/oci/example.pkrvars.hcl"

# What bake.py passes with -var. The person does not set these.
FILLED_IN = (
    "oci_config_file",
    "oci_profile",
    "model",
    "version",
    "image_name",
    "bake",
    "stage_tar",
    "inventory_directory",
    "manifest",
)

PLAIN = hcl2.SerializationOptions(with_comments=False, explicit_blocks=False, strip_string_quotes=True)


def read_hcl(path: Path) -> dict[str, Any]:
    """The file's content as plain dicts, lists, strings and numbers; expressions stay text in `${}`."""
    try:
        with path.open() as file:
            return hcl2.load(file, serialization_options=PLAIN)
    except (LarkError, UnicodeDecodeError) as error:
        raise Problem(f"{path} is not HCL: {str(error).splitlines()[0]}", f"compare it with {EXAMPLE}") from error


def read_declarations() -> dict[str, dict[str, Any]]:
    """Each variable of packer/oci: its name and its block."""
    return {name: block for entry in read_hcl(DECLARATIONS)["variable"] for name, block in entry.items()}


def read_variables(var_file: Path) -> dict[str, Any]:
    """The values of the person's variables: the file's, else the declared default.

    Raises Problem for a file that is not there, for names that nobody declared, and for values that are missing: all
    such names at once.
    """
    if not var_file.is_file():
        raise Problem(
            f"{var_file} does not exist", f"cp {EXAMPLE} {var_file}, fill in the three first values, run again"
        )
    given = read_hcl(var_file)
    own = {name: block for name, block in read_declarations().items() if name not in FILLED_IN}
    faults = [f"unknown variable {name}" for name in given if name not in own]
    faults += [f"{name} is missing" for name, block in own.items() if name not in given and "default" not in block]
    if faults:
        raise Problem(f"{var_file}: {'; '.join(faults)}", f"{EXAMPLE} explains every variable")
    return {name: given.get(name, block.get("default")) for name, block in own.items()}
