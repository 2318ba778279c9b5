"""`make tune`: measure how settings of the engine change a model's speed on this machine, and recommend some.

Starts from the defaults, changes one setting at a time, each in a process of its own, then joins the changes that paid
and measures the result. Run it on the shape that will serve: the best choice depends on CPU, quantisation and phase.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import tomlkit

from ..files import REPOSITORY, replacing
from ..models.catalog import CATALOG, find_model, load_catalog, parse_catalog
from ..problem import Problem, run

PROMPT_TOKENS = 256  # per stream, in steps of CHUNK rows
CHUNK = 64
STREAMS = (1, 4, 8)
STEPS = 8  # of decoding, after one that does not count
# One answer of the mix that is scored: 8 clients, 256 tokens in, 64 out
MIX_STREAMS, MIX_OUTPUT = 8, 64
UNIFIED = "unified cache"  # no setting: the engine shares prefixes in a unified one; shown for comparison
WORTH = 0.97  # a change must bring the mix to this share of the time, or it is noise


def list_changes(n_cores: int, sets: list[str]) -> list[dict[str, str]]:
    """What is tried, one setting each; LLM_FLASH_ATTN=auto is written out by the service's own rule."""
    changes = [
        {"LLM_FLASH_ATTN": "on"},
        {"LLM_FLASH_ATTN": "off"},
        {"LLM_REPACK": "off"},
        {"LLM_CACHE_TYPE": "q8_0"},
    ]
    if n_cores > 1:
        changes.append({"LLM_THREADS": str(n_cores - 1)})
    if len(sets) > 1:
        changes.append({"LLM_BLAS": "on"})
    return changes


def score(figures: dict[str, float]) -> float:
    """Seconds of the mix: every prompt computed, then all streams decoding together."""
    prompt_s = MIX_STREAMS * PROMPT_TOKENS / figures["prefill"]
    return prompt_s + MIX_STREAMS * MIX_OUTPUT / figures[f"decode {MIX_STREAMS}"]


def measure(settings: dict[str, str]) -> dict[str, float]:
    """In this process: tokens per second of prompts and of STREAMS streams with PROMPT_TOKENS of context each."""
    from service import __main__, config
    from service.protocol import Chunk

    changes = dict(settings)
    is_unified = changes.pop(UNIFIED, "on") == "on"
    n_most = PROMPT_TOKENS + len(STREAMS) * (STEPS + 1)
    n_cells = max(STREAMS) * -(-n_most // CHUNK) * CHUNK  # no more than is measured: separate caches divide them
    changes.setdefault("LLM_CACHE_TOKENS", str(n_cells))
    load = __main__.prepare_llama(
        config.load({**os.environ, **changes}), n_sequences=max(STREAMS), is_unified=is_unified
    )
    model = load()
    figures: dict[str, float] = {}
    started = time.monotonic()
    for sequence in range(max(STREAMS)):
        for start in range(0, PROMPT_TOKENS, CHUNK):
            tokens = [(7 * (sequence + start + i)) % model.n_vocab for i in range(CHUNK)]
            model.decode([Chunk(sequence, start, tokens)])
    figures["prefill"] = max(STREAMS) * PROMPT_TOKENS / (time.monotonic() - started)
    ends = [PROMPT_TOKENS] * max(STREAMS)  # each goes on where it is: not every model can go back
    for n in STREAMS:
        times = []
        for _ in range(STEPS + 1):
            started = time.monotonic()
            model.decode([Chunk(sequence, ends[sequence], [5], 1) for sequence in range(n)])
            times.append(time.monotonic() - started)
            ends[:n] = [end + 1 for end in ends[:n]]
        figures[f"decode {n}"] = n / statistics.median(times[1:])
    model.close()
    return figures


def measure_apart(settings: dict[str, str]) -> dict[str, float] | str:
    """The figures from a process of its own, or why there are none."""
    command = [sys.executable, "-m", "scripts.run.tune_engine", "--one", json.dumps(settings)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
    return json.loads(done.stdout.splitlines()[-1])


def name(settings: dict[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in settings.items()) or "defaults"


def show(settings: dict[str, str], figures: dict[str, float] | str, base_s: float | None) -> None:
    if isinstance(figures, str):
        print(f"{name(settings):58s} not possible: {figures}", flush=True)
        return
    speeds = "".join(f"{value:10.1f}" for value in figures.values())
    ratio = f"{(base_s or score(figures)) / score(figures):9.2f}x"
    print(f"{name(settings):58s}{speeds}{ratio}", flush=True)


def tune(environ: dict[str, str]) -> dict[str, str]:
    """Print the table; returns the settings that paid, together."""
    sets = sorted(path.parent.name for path in Path(environ["LLM_LIB_DIR"]).glob("*/set.json"))
    columns = ["prefill", *(f"decode {n}" for n in STREAMS)]
    print(f"tokens/s; the last column is the speed of a mix of {MIX_STREAMS} clients against the defaults'\n")
    print(f"{'':58s}" + "".join(f"{column:>10s}" for column in columns) + f"{'mix':>10s}")
    base = measure_apart({})
    show({}, base, None)
    if isinstance(base, str):
        raise Problem(f"the defaults cannot be measured: {base}")
    best: dict[str, tuple[float, str]] = {}
    show({UNIFIED: "off"}, measure_apart({UNIFIED: "off"}), score(base))
    for change in list_changes(len(os.sched_getaffinity(0)), sets):
        figures = measure_apart(change)
        show(change, figures, score(base))
        ((key, value),) = change.items()
        if not isinstance(figures, str) and score(figures) < WORTH * min(score(base), best.get(key, (1e9, ""))[0]):
            best[key] = (score(figures), value)
    chosen = {key: value for key, (_, value) in best.items()}
    if len(chosen) > 1:
        together = measure_apart(chosen)
        show(chosen, together, score(base))
        best_alone = min(best.items(), key=lambda item: item[1][0])
        if isinstance(together, str) or score(together) > best_alone[1][0]:
            chosen = {best_alone[0]: best_alone[1][1]}
    return chosen


def store(path: Path, name: str, chosen: dict[str, str]) -> None:
    """Make `chosen` the settings of a row of the catalogue; the rest of the file stays as it is."""
    document = tomlkit.parse(path.read_text(encoding="utf-8"))
    row = document[name]
    row.pop("settings", None)
    if chosen:
        settings = tomlkit.inline_table()
        settings.update(chosen)
        row.append("settings", settings)
    text = tomlkit.dumps(document)
    parse_catalog(text, str(path))
    with replacing(path) as file:
        file.write(text.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--one", metavar="JSON", help="measure these settings only and print JSON (what tune itself calls)"
    )
    parser.add_argument("--store", metavar="MODEL", help="write what is recommended into this row of the catalogue")
    parser.add_argument("--catalog", type=Path, default=CATALOG, help="default: %(default)s")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(json.loads(arguments.one))))
        return
    if arguments.store:
        find_model(arguments.store, load_catalog(arguments.catalog))
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"warning: something else runs here (load {load:.1f}): figures will be off", file=sys.stderr)
    chosen: dict[str, Any] = tune(dict(os.environ))
    print()
    if chosen:
        print("recommended, for /etc/llm/llm.env:\n" + "\n".join(f"  {key}={value}" for key, value in chosen.items()))
    else:
        print("recommended: the defaults")
    if arguments.store:
        store(arguments.catalog, arguments.store, chosen)
        print(f"stored in {arguments.catalog}, [{arguments.store}]: `make image` and `make run` use it")


if __name__ == "__main__":
    run(main)
