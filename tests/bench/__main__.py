"""`make bench`: start our service and each peer in turn on the same model file, ask all the same, print one table.

Every server is started once to warm the page cache (and to let it measure the machine, if it does), then a few times
against the clock. Then each workload is asked of all servers, one right after the other, each started anew for it.
Writes results.json, table.txt and comparison.svg. What the servers are made of comes ready through the command line
(scripts/run/bench.sh).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from . import report
from .load import Client
from .measure import Answer, percentile
from .servers import DEFAULT_PEERS, KINDS, OURS, REPOSITORY, SLOT_CONTEXT, SLOTS, Kind, Server, Setup
from .workloads import QUICK, WORKLOADS, Size, first_token_s, warm_up

STARTS = 5  # an odd one, while the host gives memory back, must not be the median
START_LIMIT_S = 120.0
REST_S = 2.0  # between two servers
BUSY_LOAD = 0.5


class NotStarted(Exception):
    """A server gave no first token."""


def prepare(kind: Kind, setup: Setup) -> None:
    """A first start: the page cache gets warm, and ours measures the machine."""
    with Server(kind, setup) as server:
        _reach_first_token(server, kind)
        if kind.name == OURS:
            _let_it_measure(server)


def measure_start(kind: Kind, setup: Setup, n: int) -> dict[str, float]:
    """From exec to the first token, median of n starts."""
    times_s = []
    for _ in range(n):
        began = time.monotonic()
        with Server(kind, setup) as server:
            times_s.append(_reach_first_token(server, kind, began))
    return {"first_token_s": percentile(times_s, 50)}


def measure_workload(name: str, kind: Kind, setup: Setup, size: Size) -> tuple[dict[str, float], list[list[Any]]]:
    """One workload on a server that was just started: its numbers, and its answers for the JSON."""
    with Server(kind, setup, is_overload=name == "overload") as server:
        _reach_first_token(server, kind)
        warm_up(Client(server.port))
        numbers, raw = WORKLOADS[name](Client(server.port, kind.health_path), size)
        if not server.is_alive:
            say(f"  {kind.name}: THE SERVER DIED")
    faults = sorted({answer.fault for answer in raw if answer.fault and not answer.was_cut})
    for fault in faults[:3]:
        say(f"    {kind.name}: {fault}")
    return numbers, [describe(answer, raw[0].sent_at) for answer in raw]


def _let_it_measure(server: Server) -> None:
    """Ours measures its steps in its first idle seconds and keeps what it found for the next start."""
    deadline = time.monotonic() + START_LIMIT_S
    while server.is_alive and time.monotonic() < deadline and "steps measured" not in server.log.read_text():
        time.sleep(0.5)


def _reach_first_token(server: Server, kind: Kind, began: float | None = None) -> float:
    try:
        return first_token_s(Client(server.port), began or time.monotonic(), START_LIMIT_S, lambda: server.is_alive)
    except (TimeoutError, ChildProcessError) as error:
        raise NotStarted(f"{error}; the end of {server.log}:\n{server.tail()}") from error


def describe(answer: Answer, began: float) -> list[Any]:
    """For the JSON: status, asked at, TTFT, ended at, tokens, cut or vanished. Seconds since the workload began."""
    ttft_s = answer.ttft_s
    end = "cut" if answer.was_cut else "vanished" if answer.has_vanished else ""
    asked_at, ended_at = round(answer.sent_at - began, 4), round(answer.ended_at - began, 4)
    return [answer.status, asked_at, None if ttft_s is None else round(ttft_s, 4), ended_at, answer.n_tokens, end]


def format_numbers(numbers: dict[str, float]) -> str:
    return ", ".join(
        f"{name} {report.format_number(value)}" for name, value in numbers.items() if not math.isnan(value)
    )


def describe_machine() -> dict[str, Any]:
    cpu = re.search(r"^(?:model name|CPU part)\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    memory_kb = int(re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())[1])
    return {
        "cpu": cpu[1] if cpu else platform.processor(),
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory_kb / 1e6, 1),
        "kernel": platform.release(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="GGUF file that all servers load")
    parser.add_argument("--lib-sets", type=Path, required=True, help="our library sets")
    parser.add_argument("--peer-set", type=Path, help="set with llama-server (scripts/libllama/build_peers.py)")
    parser.add_argument("--peer-python", type=Path, help="Python with tests/bench/requirements.txt")
    parser.add_argument("--examples", type=Path, help="folder of llama-cpp-python's examples/server")
    parser.add_argument("--peers", nargs="*", default=DEFAULT_PEERS, metavar="PEER", help=", ".join([*KINDS][1:]))
    parser.add_argument("--workloads", nargs="*", default=[*WORKLOADS], metavar="WORKLOAD", help=", ".join(WORKLOADS))
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--quick", action="store_true", help="a few small requests: shows that it works, measures nothing"
    )
    parser.add_argument("--out", type=Path, default=REPOSITORY / "build/bench")
    args = parser.parse_args()
    for given, known in ((args.peers, [*KINDS][1:]), (args.workloads, WORKLOADS)):
        for name in given:
            if name not in known:
                parser.error(f"{name}: must be one of {', '.join(known)}")
    return args


def main() -> None:
    args = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server that runs is stopped, too
    shutil.rmtree(args.out, ignore_errors=True)  # what an earlier run measured or logged is not of this one
    args.out.mkdir(parents=True)
    size, starts = (QUICK, 1) if args.quick else (Size(), STARTS)
    setup = Setup(
        args.model.resolve(), args.threads, args.out, args.lib_sets, args.peer_set, args.peer_python, args.examples
    )
    needs = {"llama_cpp.server": args.peer_python, "examples-server": args.peer_python}
    document: dict[str, Any] = {
        "began": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "model": {"file": setup.model.name, "bytes": setup.model.stat().st_size},
        "settings": {"threads": args.threads, "context": SLOT_CONTEXT, "slots": SLOTS, "quick": args.quick},
        "size": asdict(size),
        "servers": {},
        "skipped": {},
        "answers": {},
    }
    machine = document["machine"]
    say(f"{setup.model.name}, {args.threads} threads, {machine['cpu']}")
    if machine["load_before"] > BUSY_LOAD:
        say(f"warning: something else runs here (load {machine['load_before']}): figures and ratios will be off")
    rivals = []
    for name in (OURS, *args.peers):
        if name in needs and not needs[name]:
            document["skipped"][name] = "its Python packages could not be installed"
            say(f"{name}: skipped, {document['skipped'][name]}")
        else:
            say(f"{name}: {KINDS[name].about}")
            rivals.append(name)

    def measure(step: str, measured: Callable[[Kind], tuple[dict[str, float], list[list[Any]]]]) -> None:
        """One thing on every server, one right after the other: what else the machine does changes with the minutes."""
        say(f"{step}:")
        for name in list(rivals):
            try:
                numbers, answers = measured(KINDS[name])
            except NotStarted as error:
                if name == OURS:
                    raise SystemExit(f"error: {name}: {error}") from error
                document["skipped"][name] = str(error)
                say(f"  {name}: left out from here on, {error}")
                rivals.remove(name)
                continue
            if numbers:
                document["servers"].setdefault(name, {})[step] = numbers
                document["answers"].setdefault(name, {})[step] = answers
                say(f"  {name}: {format_numbers(numbers)}")
            write(args.out / "results.json", dump(document))
            time.sleep(0 if args.quick else REST_S)

    measure("prepare", lambda kind: (prepare(kind, setup) or {}, []))
    measure("start", lambda kind: (measure_start(kind, setup, starts), []))
    for workload in args.workloads:
        measure(workload, lambda kind, workload=workload: measure_workload(workload, kind, setup, size))
    for numbers in document["servers"].values():
        calm = [each for name, each in numbers.items() if name != "overload"]
        numbers["all"] = {name: sum(each.get(name, 0) for each in calm) for name in ("n_broken", "n_short")}

    servers = [*document["servers"]]
    findings = report.judge(document["servers"], OURS)
    table = report.format_table(findings, servers)
    document["findings"] = [
        {"row": f.row.label, "goal": f.row.goal, "against": f.row.against, "ratio": f.ratio, "verdict": f.verdict}
        for f in findings
    ]
    caption = (
        f"{setup.model.name}, {args.threads} threads, {machine['cpu']} ({machine['machine']}), {document['began'][:10]}"
    )
    write(args.out / "results.json", dump(document))
    write(args.out / "table.txt", table + "\n")
    write(args.out / "comparison.svg", report.draw(findings, servers, OURS, caption))
    print(table)
    say(f"written: {args.out}/results.json, table.txt, comparison.svg")


def dump(document: dict[str, Any]) -> str:
    """JSON has neither NaN nor infinity: they become null."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: clean(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [clean(inner) for inner in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(clean(document), separators=(",", ":"), allow_nan=False) + "\n"


def write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    part.rename(path)


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
