"""Ratios, goals and verdicts; the table and the picture that show them."""

import math
import xml.etree.ElementTree as ElementTree

import pytest

from tests.bench import report
from tests.bench.report import judge

OURS = "llamakiln"


def find(results, label):
    return next(finding for finding in judge(results, OURS) if finding.row.label.startswith(label))


def shared(tok_s, **more):
    return {"shared-8": {"tok_s": tok_s, **more}}


def test_ratio_is_to_the_best_of_the_peers():
    results = {OURS: shared(45), "llama-server": shared(30), "llama-server-np8": shared(20)}
    finding = find(results, "shared prefix, 8 clients: throughput")
    assert (finding.ratio, finding.verdict) == (1.5, "met")


def test_best_is_the_least_where_less_is_better():
    results = {OURS: shared(1, ttft_p95_s=3.6), "a": shared(1, ttft_p95_s=10.0), "b": shared(1, ttft_p95_s=20.0)}
    finding = find(results, "shared prefix, 8 clients: TTFT p95")
    assert (finding.ratio, finding.verdict) == (pytest.approx(0.36), "MISSED")


def test_some_goals_compare_with_llama_server_only():
    results = {
        OURS: {"single": {"itl_p50_s": 0.0205}},
        "llama-server": {"single": {"itl_p50_s": 0.020}},
        "examples-server": {"single": {"itl_p50_s": 0.010}},
    }
    finding = find(results, "single stream: ITL")
    assert (finding.ratio, finding.verdict) == (pytest.approx(1.025), "met")


@pytest.mark.parametrize(("gap_s", "verdict"), [(0.4, "met"), (0.41, "MISSED"), (math.nan, "not reported")])
def test_some_goals_are_bounds_of_our_own_number(gap_s, verdict):
    results = {
        OURS: {"long-prompt": {"largest_gap_s": gap_s}},
        "llama-server": {"long-prompt": {"largest_gap_s": 12.0}},
    }
    assert find(results, "long prompt among streams: largest gap").verdict == verdict


def test_without_a_peer_there_is_no_verdict():
    assert find({OURS: shared(45)}, "shared prefix, 8 clients: throughput").verdict == "no peer"


def test_workloads_that_were_not_run_are_not_shown():
    assert {finding.row.workload for finding in judge({OURS: shared(45)}, OURS)} == {"shared-8"}


def test_table_marks_what_was_cut_and_what_is_missing():
    results = {OURS: shared(45), "a": shared(30, n_cut=3.0), "b": {"shared-8": {}}}
    table = report.format_table(judge(results, OURS), [*results])
    line = next(line for line in table.splitlines() if "throughput" in line)
    assert " ".join(line.split()).endswith("tok/s 45 30* - 1.50x >= 1.5x of best peer met")
    assert "* not finished" in table


def test_picture_is_well_formed_and_names_every_server():
    results = {OURS: shared(45, ttft_p95_s=1.0), "a<b": shared(30, ttft_p95_s=math.inf)}
    svg = report.draw(judge(results, OURS), [*results], OURS, "model & machine")
    texts = [element.text for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("a<b") == 2 and "model & machine" in texts
    assert "prefers-color-scheme" in svg


def test_every_pictured_row_is_a_row():
    assert set(report.PICTURED) <= {(row.workload, row.number) for row in report.ROWS}
