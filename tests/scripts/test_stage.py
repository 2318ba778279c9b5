"""What a person sees while a long step runs, and when it fails."""

import pytest

from scripts.problem import Problem
from scripts.stage import Stages, clock_text, last_line


@pytest.fixture
def stages(tmp_path):
    return Stages(tmp_path / "logs")


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.9, "0:59"), (75, "1:15"), (3600, "60:00")])
def test_clock_text(seconds, text):
    assert clock_text(seconds) == text


def test_run_answers_with_the_last_line_and_logs_everything(stages):
    answer = stages.run(["sh", "-c", "echo noise; echo chatter >&2; echo answer"], "step")
    assert answer == "answer"
    log = (stages.log_directory / "step.log").read_text()
    assert {"noise", "chatter", "answer"} <= set(log.split())


def test_a_failure_shows_the_last_words_the_log_and_the_way_out(stages):
    with pytest.raises(Problem) as caught:
        stages.run(["sh", "-c", "seq 1 100; echo disk full >&2; exit 3"], "step", "free some space")
    message = caught.value.message
    assert "exit 3" in message
    assert "disk full" in message
    assert str(stages.log_directory / "step.log") in message
    assert "    50\n" not in message, "the tail, not the whole log"
    assert caught.value.way_out == "free some space"


def test_a_missing_command_is_no_silent_success(stages):
    with pytest.raises(FileNotFoundError):
        stages.run(["/nonexistent/tool"], "step")


def test_stage_keeps_name_and_time_and_skip_says_cached(stages, capsys):
    with stages.stage("one"):
        pass
    stages.skip("two", "in the cache")
    assert [(each["name"], each["is_cached"]) for each in stages.done] == [("one", False), ("two", True)]
    said = capsys.readouterr().err
    assert "one ..." in said
    assert "two: in the cache" in said


def test_a_failed_stage_is_not_done(stages):
    with pytest.raises(Problem), stages.stage("one"):
        raise Problem("no")
    assert stages.done == []


def test_last_line_reads_progress_that_overwrites_itself(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"first\n10 %\r20 %\r30 %\n\n")
    assert last_line(path) == "30 %"


def test_last_line_of_an_empty_log(tmp_path):
    path = tmp_path / "log"
    path.touch()
    assert last_line(path) == ""
