"""Which combinations of the form's options the tests try: all pairs of values in few rows, and all values in fewer.

Knows the options. Knows nothing of Terraform.
"""

from __future__ import annotations

from itertools import combinations, product
from typing import Any

from tests.stack.deployment import KEY, OCI_FILE, PUBLIC_KEY

CERTIFICATE = "ocid1.certificate.oc1.eu-frankfurt-1.own"
SSH = {"ssh_cidr": "203.0.113.7/32", "ssh_public_key": PUBLIC_KEY}
PROMPT = 'Say "yes", $HOME or `no` \\ in\ntwo lines: 50% ${x}'

# Option -> its choices, each with the variables that it sets. `existing` is filled in by the test.
OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "autoscaling": {
        "off": {},
        "schedule": {"autoscaling": "schedule"},
        "waiting": {"autoscaling": "waiting"},
        "cpu": {"autoscaling": "cpu", "pool_size": 9},
        "query": {
            "autoscaling": "query",
            "scale_namespace": "llm",
            "scale_out_query": "requests_waiting[1m].mean() > 8",
            "scale_in_query": "requests_waiting[5m].max() < 1",
        },
    },
    "image": {
        "ocid": {},
        "oci file": {"image_source": "link", "image_ocid": "", "image_url": OCI_FILE},
        "qcow2": {"image_source": "link", "image_ocid": "", "image_url": OCI_FILE.replace(".oci", ".qcow2")},
    },
    "https": {"self-signed": {}, "own": {"https": "own", "certificate_ocid": CERTIFICATE}, "off": {"https": "off"}},
    "key": {"made": {}, "given": {"api_key": KEY}, "none": {"has_api_key": False}},
    "ssh": {"off": {}, "range": {"ssh_access": "range", **SSH}, "bastion": {"ssh_access": "bastion", **SSH}},
    "nodes": {"private": {}, "nat": {"has_nat_gateway": True}, "public": {"has_public_nodes": True}},
    "network": {"new": {}, "existing": {"use_existing_network": True}},
    "shape": {"a2": {}, "a1": {"shape": "VM.Standard.A1.Flex", "ocpus": 4, "memory_gb": 24}},
    "clients": {"all": {}, "two": {"client_cidrs": ["198.51.100.0/24", "203.0.113.0/24"]}},
    "domains": {"best-effort": {}, "strict": {"fault_domains": "strict"}},
    "drain": {"on": {}, "off": {"has_drain": False}},
    "logs": {"off": {}, "on": {"has_flow_logs": True}},
    "sticky": {"off": {}, "on": {"has_sticky_sessions": True}},
    "waf": {"off": {}, "on": {"waf_requests_per_minute": 600}},
    "alarms": {"off": {}, "on": {"alarm_email": "ops@example.com"}},
    "host": {"none": {}, "named": {"host_name": "llm.example.com"}},
    "prompt": {"none": {}, "set": {"system_prompt": PROMPT, "max_streams": "8"}},
}
Row = dict[str, str]


def every_pair() -> list[Row]:
    """Rows in which any two choices of different options meet at least once; the first is all defaults (greedy)."""
    names = list(OPTIONS)
    missing = {
        ((a, x), (b, y)) for a, b in combinations(names, 2) for x, y in product(OPTIONS[a], OPTIONS[b])
    }  # pairs in the order of `names`
    rows = [{name: next(iter(choices)) for name, choices in OPTIONS.items()}]
    missing -= pairs(rows[0])
    while missing:
        (a, x), (b, y) = min(missing)
        row: Row = {a: x, b: y}
        for name in names:
            if name not in row:
                row[name] = max(OPTIONS[name], key=lambda choice: _gain(row, name, choice, missing))
        rows.append({name: row[name] for name in names})
        missing -= pairs(rows[-1])
    return rows


def every_choice() -> list[Row]:
    """Rows in which each choice stands at least once."""
    n_rows = max(len(choices) for choices in OPTIONS.values())
    return [
        {name: list(choices)[number % len(choices)] for name, choices in OPTIONS.items()} for number in range(n_rows)
    ]


def pairs(row: Row) -> set[tuple]:
    chosen = [(name, row[name]) for name in OPTIONS if name in row]
    return set(combinations(chosen, 2))


def _gain(row: Row, name: str, choice: str, missing: set) -> int:
    return len(pairs({**row, name: choice}) & missing)


def variables(row: Row, network: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a row sets; `network` names the existing one."""
    chosen: dict[str, Any] = {}
    for name, choice in row.items():
        chosen |= OPTIONS[name][choice]
    return {**chosen, **((network or {}) if row["network"] == "existing" else {})}


def label(row: Row) -> str:
    """The choices that are not the defaults, for the test's name."""
    return (
        "+".join(f"{name}={choice}" for name, choice in row.items() if choice != next(iter(OPTIONS[name])))
        or "defaults"
    )
