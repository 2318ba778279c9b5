"""Show a pool: its nodes, what they were made from, what the load balancer thinks of them (`make status`).

Changes nothing. Without a pool's OCID it shows every pool of the compartment that the stack made. Where the pool's
address answers, the numbers of one node are added: the load balancer chooses which. API_KEY opens it.
"""

from __future__ import annotations

import argparse
import json
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from ..problem import Problem, run
from .configuration import launch_of, read_configuration
from .pool import Pool, read_pool
from .session import Session, asking, list_all, open_session

PRODUCT = "llamakiln"  # the stack's tag
WAIT_S = 5
COLUMNS = ("name", "state", "health", "image", "place", "age")


def main(argv: list[str] | None = None) -> None:
    options = read_options(argv)
    session = open_session(os.environ)
    pools = [options.pool] if options.pool else find_pools(session, options.compartment)
    told = [tell(session, read_pool(session, ocid), options.url, os.environ) for ocid in pools]
    if options.json:
        print(json.dumps(told, indent=2))
    else:
        print("\n\n".join(draw(one) for one in told))


def read_options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pool", metavar="POOL", nargs="?", help="OCID of the instance pool")
    parser.add_argument("--compartment", metavar="OCID", help="where to look for pools when none is named")
    parser.add_argument("--url", help="where the pool answers (default: the load balancer's address)")
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    options = parser.parse_args(argv)
    if not (options.pool or options.compartment):
        parser.error("name a POOL, or a --compartment to look in")
    return options


def find_pools(session: Session, compartment_id: str) -> list[str]:
    """Every live pool of the compartment that the stack made."""
    with asking(f"the instance pools of {compartment_id}", "pools", hint="check the compartment's OCID"):
        listed = list_all(session.pools.list_instance_pools, compartment_id)
    live = [one for one in listed if one.lifecycle_state not in ("TERMINATING", "TERMINATED")]
    found = [one.id for one in live if (one.freeform_tags or {}).get("product") == PRODUCT]
    if not found:
        raise Problem(
            f"compartment {compartment_id} has no pool tagged product={PRODUCT}",
            "another compartment, or make status POOL=ocid1.instancepool...",
        )
    return found


def tell(session: Session, pool: Pool, url: str | None, environ: Mapping[str, str]) -> dict[str, Any]:
    """All there is to know, as plain data."""
    configuration = read_configuration(session, pool.found.instance_configuration_id)
    images: dict[str, str] = {}
    image_id = launch_of(configuration).source_details.image_id
    for ocid in [image_id, *(node.image_id for node in pool.nodes)]:
        if ocid not in images:
            images[ocid] = name_image(session, ocid)
    address, certificates = find_address(session, pool)
    url = (url or address).rstrip("/")
    return {
        "name": pool.found.display_name,
        "ocid": pool.id,
        "state": pool.found.lifecycle_state,
        "size": pool.found.size,
        "healthy": pool.n_serving,
        "rollout_from_size": pool.rollout_size,
        "image": {"ocid": image_id, "name": images[image_id]},
        "backend_sets": pool.sets,
        "url": url or None,
        "nodes": [
            {
                "name": node.name,
                "ocid": node.id,
                "state": node.state,
                "health": node.health,
                "is_drained": bool(node.backends) and node.is_drained,
                "is_leaving": node.is_leaving,
                "image": {"ocid": node.image_id, "name": images[node.image_id]},
                "availability_domain": node.member.availability_domain,
                "fault_domain": node.member.fault_domain,
                "created": node.member.time_created.isoformat(),
            }
            for node in pool.nodes
        ],
        "one_node": ask_node(url, certificates, environ.get("API_KEY", "")) if url else {"fault": "no address"},
    }


def name_image(session: Session, ocid: str) -> str:
    try:
        with asking(f"image {ocid}", "instances"):
            return session.compute.get_image(ocid).data.display_name
    except Problem:
        return f"{ocid} (gone, or not yours to see)"


def find_address(session: Session, pool: Pool) -> tuple[str, list[str]]:
    """Where the load balancer answers ("" without one), and the certificates that it was given."""
    if not pool.found.load_balancers:
        return "", []
    ocid = pool.found.load_balancers[0].load_balancer_id
    with asking(f"load balancer {ocid}", "balancers"):
        balancer = session.balancers.get_load_balancer(ocid).data
    addresses = sorted(balancer.ip_addresses or [], key=lambda one: not one.is_public)
    if not addresses:
        return "", []
    has_tls = any(listener.ssl_configuration for listener in (balancer.listeners or {}).values())
    certificates = [one.public_certificate for one in (balancer.certificates or {}).values() if one.public_certificate]
    return f"{'https' if has_tls else 'http'}://{addresses[0].ip_address}", certificates


def ask_node(url: str, certificates: list[str], api_key: str) -> dict[str, Any]:
    """What /status.json of one node says, or the fault.

    certificates: trusted besides the usual ones. That of the stack is self-signed; who may read it from the load
    balancer knows it, so the key goes to nobody else.
    """
    context = ssl.create_default_context()
    for pem in certificates:
        context.load_verify_locations(cadata=pem)
    request = urllib.request.Request(f"{url}/status.json")
    if api_key:
        request.add_header("Authorization", f"Bearer {api_key}")
    try:
        with urllib.request.urlopen(request, timeout=WAIT_S, context=context) as answer:
            told = json.load(answer)
        numbers, rows = told["metrics"], told["history"]["rows"]
        rate = dict(zip(told["history"]["columns"], rows[-1], strict=True))["tokens_per_s"] if rows else 0.0
        return {
            "status": told["status"],
            "model": told["model"].get("id"),
            "running": int(numbers.get("llm_requests_running", 0)),
            "queued": int(numbers.get("llm_requests_waiting", 0)),
            "tokens_per_s": rate,
        }
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return {"fault": "it asks for a key: set API_KEY"}
        return {"fault": f"it answered {error.code}"}
    except (OSError, ValueError, KeyError, TypeError) as error:
        return {"fault": f"no answer: {getattr(error, 'reason', error)}"}


def draw(told: dict[str, Any]) -> str:
    """The same for a person."""
    sets = ", ".join(f"backend set {name} {health}" for name, health in told["backend_sets"].items())
    lines = [
        f"{told['name']}  {told['state']}, {told['size']} nodes, {told['healthy']} healthy",
        f"  new nodes get {told['image']['name']}",
        f"  {told['url'] or 'no load balancer'}  {sets}",
        f"  {draw_node_view(told['one_node'])}",
    ]
    if told["rollout_from_size"] is not None:
        lines.append(f"  a rollout is under way: {told['rollout_from_size']} nodes before it and after it")
    rows = [COLUMNS, *(row_of(node) for node in told["nodes"])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, "", *table])


def draw_node_view(view: dict[str, Any]) -> str:
    if "fault" in view:
        return f"one node's own numbers: {view['fault']}"
    return (
        f"one node's own numbers: {view['tokens_per_s']:.1f} tokens/s, {view['running']} running,"
        f" {view['queued']} queued ({view['model']}, {view['status']})"
    )


def row_of(node: dict[str, Any]) -> tuple[str, ...]:
    notes = [word for word, is_so in (("drained", node["is_drained"]), ("leaving", node["is_leaving"])) if is_so]
    place = f"{node['availability_domain'].split(':')[-1]} {node['fault_domain'] or ''}".rstrip()
    age = datetime.now(timezone.utc) - datetime.fromisoformat(node["created"])
    health = " ".join([node["health"], *notes])
    return node["name"], node["state"], health, node["image"]["name"], place, age_text(age.total_seconds())


def age_text(seconds: float) -> str:
    """The largest unit that fits: 90 -> '1 min', 200000 -> '2 d'."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} s"


if __name__ == "__main__":
    run(main)
