"""The whole runner on our own service with the demo model: that it works, not how fast anything is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.workloads import QUICK, WORDS, Size

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.skipif("LLM_LIB_DIR" not in os.environ, reason="needs the native library sets: make test sets LLM_LIB_DIR")
def test_runner_measures_our_service_and_writes_its_results(tmp_path):
    options = {
        "--model": REPOSITORY / "packer/models/demo.gguf",
        "--lib-sets": os.environ["LLM_LIB_DIR"],
        "--threads": 1,
        "--out": tmp_path,
    }
    command = [
        sys.executable,
        "-m",
        "tests.bench",
        "--quick",
        *(str(word) for pair in options.items() for word in pair),
    ]
    command += ["--peers", "--workloads", "single", "structured-8", "long-prompt", "vanish", "overload"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "exec to first token" in done.stdout and "verdict" in done.stdout
    document = json.loads((tmp_path / "results.json").read_text())
    numbers = document["servers"]["llamakiln"]
    assert set(numbers) == {"start", "single", "structured-8", "long-prompt", "vanish", "overload", "all"}
    assert numbers["single"]["n_answers"] == QUICK.singles and numbers["single"]["n_tokens"] > 0
    assert numbers["structured-8"]["n_short"] == 0 and numbers["structured-8"]["of_free"] > 0
    assert numbers["all"]["n_broken"] == 0 and numbers["overload"]["n_disorderly"] == 0
    assert (tmp_path / "comparison.svg").read_text().startswith("<svg") and (tmp_path / "table.txt").exists()


def test_longest_request_fits_into_a_slot():
    """A word is one token in Llama's vocabulary; a real model's may need up to 1.5 for some."""
    from tests.bench.servers import SLOT_CONTEXT

    size = Size()
    last_turn = size.system + size.turns * (size.own + size.out)
    longest = max(size.long + size.small_out, last_turn, size.prefix + size.own + size.out)
    assert 1.5 * longest < SLOT_CONTEXT


def test_words_are_plain_and_not_repeated():
    assert len(set(WORDS)) == len(WORDS) == 128 and all(word.isascii() and word.islower() for word in WORDS)
