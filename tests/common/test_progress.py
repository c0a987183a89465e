"""Lines of progress, against a clock that the test sets."""

import re
import sys

import pytest

from mi_lens.common import progress
from mi_lens.common.progress import INTERVAL, Progress, duration, tracked
from mi_lens.generation.generate import generate
from mi_lens.models.loading import load
from mi_lens.problems.grading.grader import grade_all
from mi_lens.problems.problem import Problem
from mi_lens.states.capture import capture


class Clock:
    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "monotonic", clock)
    return clock


def test_lines_at_most_every_interval_and_one_at_the_end(clock, capsys):
    with Progress(1000, "generate", "trace") as bar:
        for _ in range(1000):
            clock.seconds += 1
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1000 // INTERVAL + 1
    assert lines[0] == "generate: 30 of 1,000 traces (3 %), 1.0 traces/s, 16.2 min left"
    assert lines[-1] == "generate: 1,000 of 1,000 traces (100 %), 1.0 traces/s, took 16.7 min"


def test_what_was_done_before_does_not_count_for_the_rate(clock, capsys):
    with Progress(100, "sweep", "unit", initial=50) as bar:
        clock.seconds += 120
        bar.update(10)
    middle, last = capsys.readouterr().err.splitlines()
    assert middle == last == "sweep: 60 of 100 units (60 %), 5.0 units/min, 8.0 min left"


def test_work_that_fails_says_how_far_it_came(clock, capsys):
    def fail(done, seconds):
        with Progress(3, "grade", "text") as bar:
            bar.update(done)
            clock.seconds += seconds
            raise KeyError

    with pytest.raises(KeyError):
        fail(1, 20_000.0)
    with pytest.raises(KeyError):
        fail(0, 60.0)
    assert capsys.readouterr().err.splitlines() == [
        "grade: 1 of 3 texts (33 %), 0.2 texts/h, 11.1 h left",
        "grade: 0 of 3 texts (0 %)",
    ]


def test_nothing_is_written_of_short_work_no_work_and_where_it_is_not_wanted(clock, capsys):
    for item in tracked(range(9), "count", "number"):
        assert item < 9
    with Progress(0, "count", "number"):
        clock.seconds += 99
    for _ in tracked(range(9), "count", "number", shown=False):
        clock.seconds += 99
    assert capsys.readouterr().err == ""


def test_a_terminal_has_a_bar(clock, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for _ in tracked(range(9), "count", "number"):
        clock.seconds += 99
    written = capsys.readouterr().err
    assert "9/9" in written
    assert "numbers" not in written


def test_durations():
    shown = [
        duration(seconds) for seconds in (0.4, 119.0, 120.0, 7199.0, 7200.0, 172_799.0, 172_800.0)
    ]
    assert shown == ["0 s", "119 s", "2.0 min", "120.0 min", "2.0 h", "48.0 h", "2.0 days"]


def test_long_work_tells_its_progress(checkpoint, capsys, monkeypatch):
    monkeypatch.setattr(progress, "SHORT", 0.0)
    model = load(checkpoint("llama"), device="cpu")
    capsys.readouterr()
    traces = generate(model, ["So", "Wait"], max_new_tokens=3)
    problems = [Problem("p", "1 + 1?", "2", source="pocket")] * 2
    capture(model, traces, ["blocks.0.hook_resid_post"], progress=True)
    grade_all([trace.text for trace in traces], problems, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert [re.sub(r", .*", "", line) for line in lines] == [
        "generate: 2 of 2 traces (100 %)",
        "capture: 2 of 2 traces (100 %)",
        "grade: 2 of 2 texts (100 %)",
    ]
    generate(model, ["So", "Wait"], max_new_tokens=3, progress=False)
    assert capsys.readouterr().err == ""
