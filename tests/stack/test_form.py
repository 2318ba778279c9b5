"""The form that Resource Manager shows: no fault, the ranges of the code, and a checker that finds what it must."""

from __future__ import annotations

import functools
import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.stack.deployment import STACK


@functools.cache
def form() -> dict:
    return yaml.safe_load((STACK / "schema.yaml").read_text())


def test_form_and_code_agree() -> None:
    from scripts.stack.form import faults

    assert faults(STACK) == []


def test_newcomer_is_asked_two_things() -> None:
    """Shown without any switch: the compartment, which is filled in, the image, and the switch itself."""
    groups = [group for group in form()["variableGroups"] if group.get("visible", True) is True]
    assert [group["title"] for group in groups] == ["Deployment"]
    shown = [re.sub(r"\W", "", name) for name in groups[0]["variables"]]
    assert shown == ["compartment_ocid", "image_source", "image_ocid", "image_url", "show_advanced"]


def test_numbers_have_the_ranges_of_the_code() -> None:
    from scripts.stack.form import read_blocks

    for name, code in read_blocks(STACK, "variable").items():
        field = form()["variables"][name]
        if field["type"] != "integer":
            continue
        condition = code["validation"][0]["condition"]
        low, high = re.search(r">= (\d+)", condition), re.search(r"<= (\d+)", condition)
        if low and high:
            assert (field["minimum"], field["maximum"]) == (int(low[1]), int(high[1])), name
        else:  # a list of values
            values = [int(one) for one in re.search(r"\[(.*?)\]", condition)[1].split(",")]
            assert values == list(range(field["minimum"], field["maximum"] + 1, field["multipleOf"])), name


def test_choices_are_those_of_the_code() -> None:
    from scripts.stack.form import read_blocks

    for name, code in read_blocks(STACK, "variable").items():
        field = form()["variables"][name]
        if field["type"] == "enum" and name != "shape":  # shapes are a pattern: later ones may be written
            values = re.search(r"contains\(\[(.*?)\]", code["validation"][0]["condition"])[1]
            assert [one.strip(' "') for one in values.split(",")] == field["enum"], name


def test_costs_in_the_text_are_the_price_tables() -> None:
    prices = (STACK / "prices.tf").read_text()

    def price(name: str) -> float:
        return float(re.search(rf"{name}\s*=\s*([0-9.]+)", prices)[1])

    volume = 50 * (price("usd_per_month_volume_gb") + 10 * price("usd_per_month_volume_vpus"))
    balancer = 720 * price("usd_per_hour_lb")
    nodes = {}
    for shape in ("A1", "A2"):
        ocpu, memory = re.search(rf"{shape}.Flex\" = {{ ocpu = ([0-9.]+), memory_gb = ([0-9.]+)", prices).groups()
        nodes[shape] = 720 * (2 * float(ocpu) + 16 * float(memory)) + volume
    told = form()["informationalText"]
    assert f"about ${2 * nodes['A2'] + balancer:.0f} a month" in told
    assert f"${nodes['A2']:.0f} for each node" in told and f"${balancer:.0f} for the load balancer" in told
    assert re.search(r'prices_date\s*=\s*"(.*)"', prices)[1] in told
    shapes = form()["variables"]["shape"]["description"]
    assert f"A2: about ${nodes['A2']:.0f} a month" in shapes and f"A1: about ${nodes['A1']:.0f}" in shapes


# A change to the form (old text, new text), and a fault that it must cause.
BROKEN = {
    "a variable without a field": ("- ${pool_size}\n", "", "pool_size: in 0 variable groups"),
    "a variable twice": (
        "- ${pool_size}\n",
        "- ${pool_size}\n      - ${pool_size}\n",
        "pool_size: in 2 variable groups",
    ),
    "an unknown member": ("- ${pool_size}\n", "- ${pool}\n", "pool: a variable group names it, and there is none"),
    "another type": ("  ocpus:\n    type: integer", "  ocpus:\n    type: string", "type string in the form, number"),
    "an unknown type": ("  ocpus:\n    type: integer", "  ocpus:\n    type: float", "type float is not one"),
    "another default": ("default: 2048", "default: 2047", "default 2047 in the form, 2048 in the code"),
    "a default not offered": ("default: ocid", "default: ocidd", "'ocidd' is not among"),
    "a bare off": ('      - "off"\n      - range', "      - off\n      - range", "enum value False is not a string"),
    "visible by nobody": (
        "    visible: has_api_key",
        "    visible: has_key",
        "refers to has_key, which is not a boolean",
    ),
    "visible by no boolean": (
        "    visible: has_api_key",
        "    visible: name",
        "refers to name, which is not a boolean",
    ),
    "visible by an impossible value": (
        "- https\n        - own",
        "- https\n        - mine",
        "'mine', which it can never be",
    ),
    "visible by no variable": (
        "- https\n        - own",
        "- tls\n        - own",
        "visible refers to tls, which is no variable",
    ),
    "visible by true": (
        "      not:\n        - use_existing_network",
        "      eq:\n        - use_existing_network\n        - true",
        "write the variable's name alone",
    ),
    "visible by two nots": (
        "      not:\n        - use_existing_network",
        "      not:\n        - use_existing_network\n        - has_drain",
        "visible not takes 1 operands",
    ),
    "an unknown operator": (
        "      not:\n        - use_existing",
        "      no:\n        - use_existing",
        "is not an operator",
    ),
    "two operators": (
        "      not:\n        - use_existing",
        "      or: []\n      not:\n        - use_existing",
        "must be one op",
    ),
    "a list of nothing": (
        "      compartmentId: ${compartment_ocid}\n    visible:",
        "      x: y\n    visible:",
        "dependsOn x:",
    ),
    "no title": ("    title: Max queue\n", "", "max_queue: has no title"),
    "a short link": ("displayText: Open the chat page", "displayText: Go", "3 to 45 characters"),
    "a secret shown": ("    title: API key\n    sensitive: true", "    title: API key", "but not in both"),
    "an output of no type": ("  url:\n    type: link", "  url:\n    type: url", "type url is not one of"),
    "no such output": (
        "  image_name:\n    type",
        "  image:\n    type",
        "the form has this output, and the code does not",
    ),
    "a button of no link": (
        "primaryOutputButton: ${url}",
        "primaryOutputButton: ${api_key}",
        "must be an output of type link",
    ),
    "an old schema": ("schemaVersion: 1.1.0", "schemaVersion: 1.0.0", "must be 1.1.0"),
    "an unknown top level": ("locale: en", "locale: en\nlogo: x", "logo: not a top-level key"),
    "not required": (
        "    title: Region\n    description: The region of the console.\n    required: true",
        "    title: Region\n    description: x",
        "so the form must require it",
    ),
}


@pytest.mark.parametrize(("old", "new", "words"), BROKEN.values(), ids=BROKEN)
def test_fault_is_found(tmp_path: Path, old: str, new: str, words: str) -> None:
    from scripts.stack.form import faults

    shutil.copytree(STACK, tmp_path / "stack")
    text = (STACK / "schema.yaml").read_text()
    assert old in text
    (tmp_path / "stack" / "schema.yaml").write_text(text.replace(old, new, 1))
    assert any(words in fault for fault in faults(tmp_path / "stack"))
