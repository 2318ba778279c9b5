"""What Oracle's SDK knows of its APIs: each operation's path, parameters, body and answer, and each model's fields.

`find(method, path)` gives the operation that a call is; `faults(module, kind, value)` says what in a value of JSON is
not as the SDK's model has it: a key that is unknown, a field missing that the API always sends, a wrong type, a word
that is none of the allowed ones, a time that cannot be read. The SDK is generated from the APIs' own description, so
this is as near to it as one comes without a network.
Knows the SDK's generated source. Does not know which status and which headers an operation answers with: the SDK does
not tell.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import inspect
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

CLIENTS = (
    "work_requests/work_request_client",  # before identity, which has work requests at the same path of another host
    "autoscaling/auto_scaling_client",
    "bastion/bastion_client",
    "core/compute_client",
    "core/compute_management_client",
    "core/virtual_network_client",
    "identity/identity_client",
    "limits/limits_client",
    "load_balancer/load_balancer_client",
    "logging/logging_management_client",
    "monitoring/monitoring_client",
    "object_storage/object_storage_client",
    "ons/notification_control_plane_client",
    "ons/notification_data_plane_client",
    "resource_manager/resource_manager_client",
    "waf/waf_client",
)
UNSENT = {("Image", "compartmentId")}  # said to be sent always, and null for Oracle's own images
PLAIN = {"str": str, "bool": bool, "int": int, "float": (int, float), "object": object}


@dataclass(frozen=True)
class Operation:
    """One call of an API. `answer` and `body` are SDK types ("list[Vcn]", "CreateVcnDetails"), "" for nothing."""

    name: str
    method: str
    path: str  # with {names}
    module: str  # of the SDK, where its models are
    answer: str
    body: str
    needs_body: bool
    needed: frozenset[str]  # query parameters that a call must have
    query: frozenset[str]  # all that it may have
    headers: frozenset[str]  # that it may have

    @property
    def item(self) -> str:
        """The type of what a list answers, "" for an operation that lists nothing."""
        is_wrapped = self.answer.endswith("Collection")
        listed = types(self.module, self.answer)["items"] if is_wrapped else self.answer
        inner = re.fullmatch(r"list\[(.+)\]", listed)
        return inner[1] if inner else ""


Place = tuple[str, int]  # method, and how many names and words the path has
PATH = re.compile(r'\n        resource_path = "(.*)"\n        method = "(.*)"')


@functools.cache
def sources() -> dict[Place, list[tuple[list[str], str, str]]]:
    """Place -> path, module and source of each operation there, not read yet: there are hundreds, and few are used."""
    found: dict[Place, list[tuple[list[str], str, str]]] = {}
    home = Path(importlib.util.find_spec("oci").origin).parent
    for client in CLIENTS:  # read and not imported, which takes seconds
        module = client.split("/")[0]
        source = (home / f"{client}.py").read_text()
        base = re.search(r"'base_path': '(.*)'", source)[1].rstrip("/")
        for part in source.split("\n    def "):
            if place := PATH.search(part):
                words = (base + place[1]).split("/")
                found.setdefault((place[2], len(words)), []).append((words, module, part))
    return found


@functools.lru_cache(4096)
def find(method: str, path: str) -> Operation | None:
    """The operation that a call is, None for what the SDK does not know; a word matches before a name does."""
    asked = path.split("/")
    found = [
        one
        for one in sources().get((method, len(asked)), [])
        if all(word == given or (word[:1] == "{" and given) for word, given in zip(one[0], asked, strict=True))
    ]
    best = min(found, key=lambda one: sum(word[:1] == "{" for word in one[0]), default=None)
    return best and read_operation(method, *best)


def read_operation(method: str, words: list[str], module: str, source: str) -> Operation:
    def said(pattern: str) -> str:
        found = re.search(pattern, source)
        return found[1] if found else ""

    query = re.findall(r'"(\S+)": (.+)', said(r"(?s)\n        query_params = \{\n(.*?)\n        \}"))
    headers = re.findall(r'"(\S+)": ', said(r"(?s)\n        header_params = \{\n(.*?)\n        \}"))
    return Operation(
        name=said(r'\n        operation_name = "(.*)"'),
        method=method,
        path="/".join(words),
        module=module,
        answer=said(r'response_type="(.*)"'),
        body=said(rf":param oci\.{module}\.models\.(\w+) \w+:") if re.search(r"\n +body=\w", source) else "",
        needs_body=bool(re.search(rf":param oci\.{module}\.models\.\w+ \w+: \(required\)", source)),
        needed=frozenset(name for name, value in query if "kwargs" not in value),
        query=frozenset(name for name, _ in query),
        headers=frozenset(name.lower() for name in headers),
    )


def model(module: str, kind: str, value: Any = None) -> Any:
    """The SDK's class of this name, or of the kind of it that the value is."""
    models = importlib.import_module(f"oci.{module}").models
    found = getattr(models, kind)
    if isinstance(value, dict) and "get_subtype" in vars(found):
        with contextlib.suppress(KeyError):  # the field that tells is missing, which the check will say
            found = getattr(models, found.get_subtype(value))
    return found


@functools.cache
def _fields(kind: Any) -> dict[str, tuple[str, bool, tuple[str, ...]]]:
    """API name -> type, whether the API always sends it, and the words allowed (none: any)."""
    made = kind()
    fields = {}
    for name, api_name in made.attribute_map.items():
        attribute = getattr(kind, name)
        words = re.search(r"allowed_values = \[(.*)\]", inspect.getsource(attribute.fset))
        is_needed = "**[Required]**" in (attribute.fget.__doc__ or "") and (kind.__name__, api_name) not in UNSENT
        fields[api_name] = (
            made.swagger_types[name],
            is_needed,
            tuple(re.findall(r'"(.*?)"', words[1] if words else "")),
        )
    return fields


def types(module: str, kind: str, value: Any = None) -> dict[str, str]:
    """API name -> type, of a model's fields, or of those of the kind of it that the value is."""
    if kind in PLAIN or kind in ("stream", ""):
        return {}
    return {name: told[0] for name, told in _fields(model(module, kind, value)).items()}


def collections(operation: Operation, value: Any = None) -> dict[str, Any]:
    """API name -> empty, of each list and map of what an operation answers."""
    return empty(operation.module, operation.item or operation.answer, value)


def empty(module: str, kind: str, value: Any = None) -> dict[str, Any]:
    """API name -> empty, of each list and map of a model."""
    fields = types(module, kind, value).items()
    return {name: [] if one[0] == "l" else {} for name, one in fields if one.startswith(("list[", "dict("))}


def absent(operation: Operation, value: Any) -> list[str]:
    """The lists and maps that an answer leaves out, or a part of it that it has by name, as a load balancer its
    listeners. The APIs send empty ones, and Terraform's provider tells them from none: a computed one that is not there
    is not known, and the next plan is not empty.
    """
    if operation.item or not isinstance(value, dict):
        return []
    told = _absent(operation.module, operation.answer, value, "")
    for name, kind in types(operation.module, operation.answer, value).items():
        part = re.fullmatch(r"dict\(str, (\w+)\)", kind)
        for key, one in (value.get(name) or {}).items() if part and part[1] not in PLAIN else ():
            told += _absent(operation.module, part[1], one, f".{name}.{key}")
    return told


def _absent(module: str, kind: str, value: dict[str, Any], path: str) -> list[str]:
    left_out = [name for name in empty(module, kind, value) if value.get(name) is None]
    return [f"{path}.{name}: an empty one is left out" for name in left_out]


def faults(module: str, kind: str, value: Any, path: str = "") -> list[str]:
    """What is wrong with a value that should be of this SDK type."""
    if inner := re.fullmatch(r"list\[(.+)\]", kind):
        if not isinstance(value, list):
            return [f"{path}: {value!r} is no list"]
        return [fault for n, one in enumerate(value) for fault in faults(module, inner[1], one, f"{path}[{n}]")]
    if inner := re.fullmatch(r"dict\(str, (.+)\)", kind):
        if not isinstance(value, dict):
            return [f"{path}: {value!r} is no map"]
        return [fault for name, one in value.items() for fault in faults(module, inner[1], one, f"{path}.{name}")]
    if kind in PLAIN:
        is_flag = isinstance(value, bool) and kind in ("int", "float")
        return [] if isinstance(value, PLAIN[kind]) and not is_flag else [f"{path}: {value!r} is no {kind}"]
    if kind == "datetime":
        return [] if is_time(value) else [f"{path}: {value!r} is no time"]
    if not isinstance(value, dict):
        return [f"{path}: {value!r} is no {kind}"]
    fields = _fields(model(module, kind, value))
    told = [f"{path}.{name}: unknown to {kind}" for name in value if name not in fields]
    for name, (inner_kind, is_needed, words) in fields.items():
        one = value.get(name)
        if one is None:
            told += [f"{path}.{name}: missing in {kind}"] if is_needed else []
            continue
        told += faults(module, inner_kind, one, f"{path}.{name}")
        told += [f"{path}.{name}: {word!r} is none of {words}" for word in flat(one) if words and word not in words]
    return told


def flat(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def is_time(value: Any) -> bool:
    """RFC 3339 with a zone, as every API writes times."""
    try:
        return datetime.fromisoformat(value.replace("Z", "+00:00")).tzinfo is not None
    except (AttributeError, ValueError):
        return False
