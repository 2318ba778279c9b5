"""Whether schema.yaml and variables.tf of a Resource Manager stack say the same, by the rules that the console has.

Rules of Oracle's page "Extend Console Pages Using Schema Documents" and its meta schema (read November 2026), and what
the console does not check itself: every variable in exactly one group, equal types and defaults, expressions that refer
to variables and to values these can have. `faults(folder)` lists every fault as a sentence. Knows nothing of Llamakiln.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from pathlib import Path
from typing import Any

import hcl2
import yaml

# Form type -> Terraform type. A dynamic type (oci:...) is a string.
STATIC_TYPES = {
    "array": "list(string)",
    "boolean": "bool",
    "enum": "string",
    "integer": "number",
    "number": "number",
    "password": "string",
    "string": "string",
    "text": "string",
}
# Dynamic type -> what its list depends on.
DYNAMIC_TYPES = {
    "oci:core:image:id": ("compartmentId",),
    "oci:core:ssh:publickey": (),
    "oci:core:subnet:id": ("compartmentId", "vcnId"),
    "oci:core:vcn:id": ("compartmentId",),
    "oci:identity:compartment:id": (),
    "oci:identity:region:name": (),
}
SUBNET_SWITCHES = ("hidePublicSubnet", "hidePrivateSubnet", "hideRegionalSubnet", "hideAdSubnet")
OUTPUT_TYPES = ("boolean", "copyableString", "csv", "json", "link", "list", "map", "number", "ocid", "string")
OPERANDS = {"eq": 2, "ge": 2, "gt": 2, "le": 2, "lt": 2, "and": 2, "or": 2, "not": 1}
TOP_LEVEL = {
    "title",
    "description",
    "informationalText",
    "schemaVersion",
    "version",
    "locale",
    "variableGroups",
    "variables",
    "outputGroups",
    "outputs",
    "primaryOutputButton",
}
AUTO_FILLED = ("tenancy_ocid", "compartment_ocid", "region", "current_user_ocid")
MAX_VARIABLES = 250
DISPLAY_TEXT = (3, 45)
Table = dict[str, Any]


def read_blocks(folder: Path, kind: str) -> Table:
    """All blocks of a kind (variable, output) in the folder's .tf files, by name."""
    blocks = [block for file in sorted(folder.glob("*.tf")) for block in _parse(file.read_text()).get(kind, [])]
    return {name.strip('"'): body for block in blocks for name, body in block.items()}


@functools.cache
def _parse(text: str) -> Table:
    """One file; parsing takes tenths of a second."""
    options = hcl2.SerializationOptions(with_comments=False, explicit_blocks=False, strip_string_quotes=True)
    return hcl2.loads(text, serialization_options=options)


def faults(folder: Path) -> list[str]:
    """What is wrong with the form, or nothing."""
    form = yaml.safe_load((folder / "schema.yaml").read_text())
    variables, outputs = read_blocks(folder, "variable"), read_blocks(folder, "output")
    found = [f"{name}: not a top-level key of a schema document" for name in sorted(set(form) - TOP_LEVEL)]
    if form.get("schemaVersion") != "1.1.0":
        found.append(f"schemaVersion {form.get('schemaVersion')}: must be 1.1.0")
    if len(variables) > MAX_VARIABLES:
        found.append(f"{len(variables)} variables: Resource Manager takes at most {MAX_VARIABLES}")
    found += _compare("variable", set(variables), set(form["variables"]))
    found += _compare("output", set(outputs), set(form["outputs"]))
    found += _check_groups(form, "variable") + _check_groups(form, "output")
    for name in sorted(set(variables) & set(form["variables"])):
        found += [f"{name}: {fault}" for fault in _check_variable(form, variables, name)]
    for group in form["variableGroups"]:
        found += [f"group {group['title']}: {fault}" for fault in _check_visible(form, group.get("visible", True))]
    for name, output in form["outputs"].items():
        found += [f"{name}: {fault}" for fault in _check_output(output, outputs.get(name, {}))]
    button = _referred(form.get("primaryOutputButton", ""))
    if form["outputs"].get(button, {}).get("type") != "link":
        found.append(f"primaryOutputButton {button}: must be an output of type link")
    return found


def _compare(kind: str, code: set[str], form: set[str]) -> list[str]:
    missing = [f"{name}: this {kind} is not in the form" for name in sorted(code - form)]
    return missing + [f"{name}: the form has this {kind}, and the code does not" for name in sorted(form - code)]


def _check_groups(form: Table, kind: str) -> list[str]:
    members = Counter(_referred(one) for group in form[f"{kind}Groups"] for one in group[f"{kind}s"])
    known = set(form[f"{kind}s"])
    unknown = [f"{name}: a {kind} group names it, and there is none" for name in sorted(set(members) - known)]
    return unknown + [
        f"{name}: in {members[name]} {kind} groups, must be in one" for name in sorted(known) if members[name] != 1
    ]


def _check_variable(form: Table, variables: Table, name: str) -> list[str]:
    field, code = form["variables"][name], variables[name]
    kind = field.get("type", "")
    found = [f"has no {key}" for key in ("title", "description") if not field.get(key)]
    if kind not in STATIC_TYPES and kind not in DYNAMIC_TYPES:
        return [*found, f"type {kind} is not one that this form may use"]
    type_in_code = re.sub(r"[${} ]", "", str(code["type"]))
    if type_in_code != STATIC_TYPES.get(kind, "string"):
        found.append(f"type {kind} in the form, {type_in_code} in the code")
    # An empty default in the code means "not chosen": the form leaves the field empty.
    wanted = code.get("default")
    if field.get("default") != (None if wanted in ("", None) else wanted):
        found.append(f"default {field.get('default')!r} in the form, {wanted!r} in the code")
    is_optional = "default" in code and wanted not in ("",)
    if not is_optional and "default" not in code and not field.get("required"):
        found.append("has no default in the code, so the form must require it")
    if kind == "enum":
        found += [f"enum value {one!r} is not a string" for one in field.get("enum", []) if not isinstance(one, str)]
        if field.get("default") not in field.get("enum", []):
            found.append(f"default {field.get('default')!r} is not among {field.get('enum')}")
    depends = field.get("dependsOn", {})
    for key in DYNAMIC_TYPES.get(kind, ()):
        if _referred(str(depends.get(key, ""))) not in variables:
            found.append(f"dependsOn {key} must refer to a variable")
    allowed = {*DYNAMIC_TYPES.get(kind, ()), *(SUBNET_SWITCHES if kind == "oci:core:subnet:id" else ())}
    found += [f"dependsOn {key}: type {kind} does not know it" for key in depends if key not in allowed]
    return found + _check_visible(form, field.get("visible", True))


def _check_visible(form: Table, expression: Any) -> list[str]:
    """A boolean, a boolean variable's name, or one operator over its operands."""
    if isinstance(expression, bool):
        return []
    if isinstance(expression, str):
        kind = form["variables"].get(_referred(expression), {}).get("type")
        return [] if kind == "boolean" else [f"visible refers to {expression}, which is not a boolean variable"]
    if not isinstance(expression, dict) or len(expression) != 1:
        return [f"visible {expression!r}: must be one operator"]
    ((operator, operands),) = expression.items()
    if operator not in OPERANDS:
        return [f"visible uses {operator}, which is not an operator"]
    if not isinstance(operands, list) or len(operands) != OPERANDS[operator]:
        return [f"visible {operator} takes {OPERANDS[operator]} operands, not {operands!r}"]
    if operator in ("and", "or", "not"):
        return [fault for operand in operands for fault in _check_visible(form, operand)]
    name, value = operands
    field = form["variables"].get(_referred(str(name)))
    if field is None:
        return [f"visible refers to {name}, which is no variable"]
    if isinstance(value, bool) or field["type"] == "boolean":
        return [f"visible compares {name} with {value!r}: write the variable's name alone, or not"]
    if field["type"] == "enum" and value not in field["enum"]:
        return [f"visible compares {name} with {value!r}, which it can never be"]
    return []


def _check_output(output: Table, code: Table) -> list[str]:
    found = [] if output.get("title") else ["has no title"]
    if output.get("type") not in OUTPUT_TYPES:
        found.append(f"type {output.get('type')} is not one of {', '.join(OUTPUT_TYPES)}")
    low, high = DISPLAY_TEXT
    if output.get("type") == "link" and not low <= len(output.get("displayText", "")) <= high:
        found.append(f"a link's displayText must have {low} to {high} characters")
    if bool(code.get("sensitive")) != bool(output.get("sensitive")):
        found.append("sensitive in the code or in the form, but not in both")
    return found


def _referred(text: str) -> str:
    """The name in ${name}, or the name itself."""
    return re.sub(r"^\$\{(\w+)\}$", r"\1", text)
