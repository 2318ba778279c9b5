"""The boot report of scripts/bake/test_image.py: systemd's words as numbers, and which machines are booted."""

from __future__ import annotations

import pytest

from scripts.bake.test_image import choose_machines, print_report, read_analyze, seconds_of

FACTS = {
    "analyze_time": "Startup finished in 3.480s (kernel) + 1min 12.250s (userspace) = 1min 15.730s \n"
    "graphical.target reached after 1min 11.950s in userspace.",
    "analyze_blame": "1min 2.345s cloud-init-local.service\n     9.100s llm.service\n      678ms nginx.service\n",
    "analyze_chain": 'The time when unit became active or started is printed after the "@" character.\n\n'
    "llm.service +9.100s\n└─basic.target @12.000s\n",
}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("678ms", 0.678), ("3.480s", 3.48), ("1min 2.345s", 62.345), ("1h 2min 3s", 3723.0), ("12us", 0.0)],
)
def test_systemd_s_durations_are_read_as_seconds(text, seconds):
    assert seconds_of(text) == seconds


def test_analysis_is_read():
    assert read_analyze(FACTS) == {
        "time": {"kernel": 3.48, "userspace": 72.25},
        "blame": {"cloud-init-local.service": 62.345, "llm.service": 9.1, "nginx.service": 0.678},
        "chain": ["llm.service +9.100s", "└─basic.target @12.000s"],
    }


def test_report_shows_every_machine(capsys):
    boot = {"ready_s": 50.0, "first_token_s": 51.5, "ssh_s": 40.0}
    whole = {"cpu": "a2", "accelerator": "tcg"} | boot | read_analyze(FACTS)
    print_report({"a2": whole, "a1": {"cpu": "host", "accelerator": "kvm"} | boot})
    printed = capsys.readouterr().out
    assert "like a2 (a2, emulated: compare it with itself only)" in printed
    assert "power-on to first token 51.5 s, ready 50.0 s, ssh 40.0 s" in printed
    assert "cloud-init-local.service 62.345 s" in printed
    assert "└─basic.target @12.000s" in printed
    assert "like a1 (host)" in printed
    assert "its facts could not be read" in printed


@pytest.mark.parametrize(
    ("accelerator", "features", "booted"),
    [
        ("tcg", "", {"a2": ("a2", "tcg"), "a1": ("a1", "tcg")}),
        ("kvm", "Features : fp asimd asimddp i8mm bf16", {"a2": ("host", "kvm"), "a1": ("a1", "tcg")}),
        ("kvm", "Features : fp asimd asimddp", {"a2": ("a2", "tcg"), "a1": ("host", "kvm")}),
    ],
)
def test_both_shapes_are_booted_whatever_the_host_is(accelerator, features, booted):
    machines = choose_machines(accelerator, features)
    assert {shape: (each["cpu"], each["accelerator"]) for shape, each in machines.items()} == booted


def test_both_ways_to_get_metadata_are_booted():
    assert {each["metadata"] for each in choose_machines("tcg", "").values()} == {"oracle", "nocloud"}
