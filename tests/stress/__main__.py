"""`make stress`: a node behind NGINX, one scenario after another, each for a bounded time, and a table of its budgets.

Everything goes to loopback. Exits with 1 if a budget was not met. The figures are this machine's: its CPU is in the
first line.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path

from . import faults, load
from .client import ask
from .node import raise_limits, run_node
from .verdict import GAP_S, HEALTH_P99_S, Check, at_most, tell, write_table
from .witness import Witness

LIMIT_TIMES = 6  # a scenario is given up after so many times its seconds
LIMIT_S = 120


async def run_load(name: str, folder: Path, model: Path, lib_dir: Path, seconds: float) -> list[Check]:
    async with run_node(folder, model, lib_dir) as node:
        await node.wait_ready()
        await ask(node.port, load.STREAM)
        async with Witness(node.port) as witness:
            checks = await load.SCENARIOS[name](node, seconds)
        seen = witness.seen
        return [
            *checks,
            at_most("/healthz p99", seen.health_p99_s, HEALTH_P99_S, " s"),
            at_most("/healthz not 200", seen.n_unhealthy, 0),
            at_most("longest wait in another's stream", seen.longest_gap_s, GAP_S, " s"),
            tell("another's streams, refused", f"{seen.n_streams}, {seen.n_refused}"),
            Check("deaths", str(node.deaths or 0), "0", not node.deaths),
        ]


async def run_all(names: list[str], model: Path, lib_dir: Path, seconds: float, keep: Path) -> list[tuple[str, Check]]:
    rows: list[tuple[str, Check]] = []
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        folder = keep / name
        work = (
            run_load(name, folder, model, lib_dir, seconds)
            if name in load.SCENARIOS
            else faults.SCENARIOS[name](folder, model, lib_dir)
        )
        try:
            checks = await asyncio.wait_for(work, LIMIT_TIMES * seconds + LIMIT_S)
        except Exception as error:  # the others are still run
            checks = [Check("ended early", f"{type(error).__name__}: {error}"[:300], "", False)]
        rows += [(name, check) for check in checks]
    return rows


def describe_cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown CPU")
    return f"{len(os.sched_getaffinity(0))} cores of {model}, load {os.getloadavg()[0]:.1f}"


def main() -> int:
    known = [*load.SCENARIOS, *faults.SCENARIOS]
    parser = argparse.ArgumentParser(prog="python -m tests.stress", description="Scenarios: " + ", ".join(known))
    parser.add_argument("--model", type=Path, required=True, help="GGUF file that serves")
    parser.add_argument("--lib-sets", type=Path, required=True, help="folder of library sets")
    parser.add_argument("--seconds", type=float, default=20, help="of each scenario of load")
    parser.add_argument("--scenarios", nargs="*", choices=known, default=known, metavar="NAME")
    parser.add_argument("--keep", type=Path, help="folder for logs; without it they go")
    options = parser.parse_args()
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    raise_limits()
    keep = options.keep or Path(tempfile.mkdtemp(prefix="stress-"))
    print(
        f"{describe_cpu()}, {raise_limits()} descriptors, {options.model.name}, {options.seconds:g} s each", flush=True
    )
    try:
        rows = asyncio.run(run_all(options.scenarios, options.model, options.lib_sets, options.seconds, keep))
    finally:
        if not options.keep:
            shutil.rmtree(keep, ignore_errors=True)
    print(write_table(rows))
    n_missed = sum(check.ok is False for _, check in rows)
    print(f"\n{sum(check.ok is True for _, check in rows)} budgets kept, {n_missed} missed")
    return 1 if n_missed else 0


if __name__ == "__main__":
    sys.exit(main())
