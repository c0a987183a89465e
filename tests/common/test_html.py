import json
import pickle
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mi_lens.report.plots.style
from mi_lens.common.html import LONGEST, UNSHOWABLE, table, text_box, with_interval
from mi_lens.common.statistics import Estimate
from mi_lens.evaluation.budget_curve import BudgetCurve
from mi_lens.evaluation.comparison import Arm, compare
from mi_lens.evaluation.evaluate import Evaluation
from mi_lens.evaluation.result import Result
from mi_lens.evaluation.table import report_table
from mi_lens.information.per_trace.control_summary import ControlSummary, MismatchSummary, Variant
from mi_lens.information.per_trace.controls import Calibration
from mi_lens.information.per_trace.measurement import Measurement
from mi_lens.information.per_trace.peak_rules import IQR
from mi_lens.information.per_trace.peaks import find_peaks, peak_statistics
from mi_lens.information.per_trace.thinking_tokens import ThinkingTokens, TokenRow
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.suppress import Evasion, Suppress
from mi_lens.interventions.vector import SteeringVector
from mi_lens.problems.grading.grader import Grade
from mi_lens.problems.problem import Problem
from mi_lens.report.coloured_trace import (
    BLUE,
    DEEPEST,
    ORANGE,
    ColouredTrace,
    colour_range,
    show,
)
from mi_lens.runs.analysis import Analysis
from mi_lens.runs.config import AnalyzeConfig
from mi_lens.steering.separability import Separability
from mi_lens.traces.thought_statistics import thought_statistics
from mi_lens.traces.thoughts import Thought, ThoughtClass, split_thoughts
from mi_lens.traces.trace import Trace
from mi_lens.traces.trace_files import Traces, trace_to_row
from mi_lens.traces.vocabulary import TokenSet

MARKUP = "</pre></table><script>alert('1')</script><img src=x onerror=\"alert(2)\"> &lt; $x$ <!--"
TAGS = {"table", "caption", "thead", "tbody", "tr", "th", "td", "pre", "em", "div", "span", "br"}


class Page(HTMLParser):
    """What a browser makes of HTML: tags that close, attributes, text."""

    def __init__(self, html):
        super().__init__()
        self.open, self.cells, self.spans, self.outermost, self.text = [], [], [], [], ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert tag in TAGS
        assert {name for name, _ in attrs} <= {"class", "style", "title", "tabindex"}
        if not self.open:
            self.outermost.append(dict(attrs))
        if tag in ("td", "th", "caption"):
            self.cells.append("")
        if tag == "span":
            self.spans.append(dict(attrs) | {"text": ""})
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] in ("td", "th", "caption"):
            self.cells[-1] += data
        if self.open and self.open[-1] == "span":
            self.spans[-1]["text"] += data

    def handle_comment(self, data):
        raise AssertionError(f"a comment hides {data!r}")


def shown(thing):
    page = Page(thing._repr_html_())
    for attributes in page.outermost:  # MathJax passes over elements of these classes.
        assert attributes["class"] == "tex2jax_ignore mathjax_ignore"
    return page


@given(st.text(st.characters()))
def test_any_text_comes_back(text):
    expected = UNSHOWABLE.sub("\ufffd", text)
    assert Page(text_box(text)).text == expected
    header, cell = Page(table([(text,)], (text,))).cells
    assert header == cell == expected
    expected.encode()  # a notebook is a file


def test_what_no_page_can_hold():
    assert Page(text_box("a\x00b\ud800c\td\n\n\u2028e")).text == "a\ufffdb\ufffdc\td\n\n\u2028e"


def test_a_long_text_is_cut_in_the_middle():
    exact = "é" * LONGEST
    assert Page(text_box(exact)).text == exact
    long = "a" * LONGEST + "b" * 12_345 + "c" * LONGEST
    text = Page(text_box(long)).text
    note = f"[{len(long) - LONGEST:,} characters are not shown here]"
    assert text == "a" * (LONGEST // 2) + f"\n{note}\n" + "c" * (LONGEST // 2)


def test_tables():
    page = Page(table([("a", 0.123456, None), ("b", 7, 1.0)], ("name", "x", "y"), "two <rows>"))
    assert page.cells == ["two <rows>", "name", "x", "y", "a", "0.1235", "–", "b", "7", "1"]
    assert Page(table([], ("only", "a header"))).cells == ["only", "a header"]
    assert Page(table({"key": "value", "n": 3})).cells == ["key", "value", "n", "3"]
    with pytest.raises(ValueError, match="zip"):
        table([("a", 1), ("b",)])
    assert with_interval(1.23456, 1.0, 2.0) == "1.235 (1 to 2)"
    assert with_interval(None, None, None) == "–"


@pytest.fixture
def trace(tokenizer):
    problem = Problem("p", f"2 + 2? {MARKUP}", f"4{MARKUP}")
    return Trace.from_text(tokenizer, problem, f"So 4.\n\nWait, {MARKUP}\n\nYes")


def test_a_trace(trace):
    page = shown(trace)
    assert page.cells[:4] == ["question", trace.problem.question, "gold answer", f"4{MARKUP}"]
    assert page.cells[-2:] == ["condition", "–"]
    assert page.text.endswith(f"So 4.\n\nWait, {MARKUP}\n\nYes")
    bare = Trace("id", "model", MARKUP, (1,), (2,), "x", "eos", condition={"name": MARKUP})
    assert shown(bare).cells[1] == shown(bare).cells[-1] == MARKUP


def test_a_coloured_trace(trace, tokenizer):
    mi = np.random.default_rng(0).random(len(trace))
    peaks = find_peaks(mi, IQR(0.1))
    assert len(peaks) > 1
    page = shown(show(trace, mi, peaks, tokenizer=tokenizer))
    tokens = page.spans[2:]  # after the scale and the sample of an outline
    strings = trace.token_strings(tokenizer)
    assert [span["text"] for span in tokens] == [s.replace("\n", "↵\n") for s in strings]
    outlined = [step for step, span in enumerate(tokens) if ORANGE in span["style"]]
    assert outlined == peaks.tolist()
    heat = [float(re.findall(r"[\d.]+\)", span["style"])[0][:-1]) for span in tokens]
    deepest = np.quantile(mi, 0.98)  # as on the report's page
    expected = np.minimum((mi - mi.min()) / (deepest - mi.min()), 1.0)
    np.testing.assert_allclose(heat, DEEPEST * expected, atol=0.0051)
    assert tokens[3]["title"] == f"step 3: {mi[3]:.4g}" + ", peak" * (3 in peaks)
    assert MARKUP in page.text


def test_one_high_value_does_not_leave_the_others_pale(trace, tokenizer):
    mi = np.linspace(0.0, 1.0, len(trace))
    mi[3] = 1000.0
    low, high = colour_range(np.r_[mi, np.linspace(0.0, 1.0, 200)])
    assert (low, round(high)) == (0.0, 1)
    assert "and more" in shown(show(trace, mi, tokenizer=tokenizer)).text


def test_two_traces_side_by_side_from_their_first_different_token(tokenizer):
    problem = Problem("p", f"2 + 2? {MARKUP}", "4")
    one, other, short = (
        Trace.from_text(tokenizer, problem, text)
        for text in ("So the answer is 4.", f"So the answer was {MARKUP}", "So the answer")
    )
    same = len(short)
    assert one.token_ids[:same] == other.token_ids[:same] == short.token_ids
    mi = np.arange(len(one), dtype=float)
    page = shown(show(one, mi, tokenizer=tokenizer, compare=other))
    assert f"The first {same} tokens are the same in both" in page.text
    tokens = [span for span in page.spans if span.get("title", "").startswith("step ")]
    strings = [*one.token_strings(tokenizer)[same:], *other.token_strings(tokenizer)[same:]]
    assert [span["text"] for span in tokens] == strings
    assert tokens[0]["title"] == f"step {same}: {same}"
    assert tokens[len(one) - same]["title"] == f"step {same}"
    assert "(ended)" in shown(show(one, mi, tokenizer=tokenizer, compare=short)).text
    assert f"All {len(one)} tokens" in shown(show(one, mi, tokenizer=tokenizer, compare=one)).text
    stranger = Trace.from_text(tokenizer, "3 + 3?", "So 6")
    with pytest.raises(ValueError, match="have different prompts"):
        show(one, mi, tokenizer=tokenizer, compare=stranger)


def test_values_that_do_not_vary_have_no_colour(trace, tokenizer):
    page = shown(show(trace, [0.5] * len(trace), tokenizer=tokenizer))
    assert all(",0.00)" in span["style"] for span in page.spans[2:])


def test_what_cannot_be_shown_is_refused(trace, tokenizer):
    values = [0.5] * len(trace)
    with pytest.raises(ValueError, match=r"values of shape \(3,\): expected one value per step"):
        show(trace, [0.1] * 3, tokenizer=tokenizer)
    with pytest.raises(ValueError, match="value at step 2 is nan"):
        show(trace, [*values[:2], float("nan"), *values[3:]], tokenizer=tokenizer)
    with pytest.raises(ValueError, match=f"peaks holds step {len(trace)}; expected peaks of this"):
        show(trace, values, [0, len(trace)], tokenizer=tokenizer)


def test_coloured_text_can_be_read_on_light_and_dark_pages():
    def luminance(colour):
        linear = [
            c / 3294.6 if c <= 10.3 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour
        ]  # as WCAG defines it
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    def contrast(a, b):
        low, high = sorted([luminance(a), luminance(b)])
        return (high + 0.05) / (low + 0.05)

    orange = [int(ORANGE[i : i + 2], 16) for i in (1, 3, 5)]
    pages = {255: 33, 250: 0, 17: 224, 30: 212, 0: 255}  # grey of the page to grey of its text
    for page, text in pages.items():
        deepest = [DEEPEST * c + (1 - DEEPEST) * page for c in BLUE]
        assert contrast(deepest, [text] * 3) > 4.5
        assert contrast(orange, [page] * 3) > 3
    assert contrast([0] * 3, [255] * 3) == pytest.approx(21)


def test_colours_are_those_of_the_figures():
    assert "#{:02X}{:02X}{:02X}".format(*BLUE) == mi_lens.report.plots.style.BLUE
    assert ORANGE == mi_lens.report.plots.style.ORANGE


def test_lists_of_traces_and_of_thoughts_are_lists(trace, tokenizer):
    thoughts = split_thoughts(tokenizer, trace)
    traces = Traces([trace] * 30)
    for items in (thoughts, traces):
        assert items == list(items)
        assert items[0] is next(iter(items))
        assert items[1:] == list(items)[1:]
        assert type(items[1:]) is type(items)
        assert pickle.loads(pickle.dumps(items)) == items
        assert len(repr(items)) < 300
    assert json.dumps(traces[:1], default=trace_to_row) == json.dumps([trace_to_row(trace)])
    page = shown(traces)
    assert page.cells[0] == "30 in all, the first 20 shown"
    assert len(page.cells) == 1 + 21 * 8
    assert shown(thoughts).cells[:6] == ["2 in all", "", "class", "first step", "steps", "text"]
    assert shown(thoughts).cells[-1] == "Yes"
    assert shown(thoughts[:0]).cells[0] == "0 in all"


def test_problems_conditions_grades_and_evasion():
    problem = Problem("p", MARKUP, f"4{MARKUP}", f"so {MARKUP}")
    assert shown(problem).cells[:4] == ["id", "p", "gold answer", f"4{MARKUP}"]
    assert shown(problem).text.count(MARKUP) == 3
    condition = Condition((Suppress([MARKUP]), Suppress(["b"])), name=MARKUP)
    page = shown(condition)
    assert page.cells[0] == f"condition {MARKUP!r}"
    assert repr(Suppress(["b"])) in page.cells
    assert "temperature" in page.cells
    wrong = Grade(False, MARKUP, "exact", "not the gold answer's own text")
    assert shown(wrong).cells[:4] == ["correct", "no", "decided by", "exact"]
    assert shown(wrong).text.endswith(MARKUP)
    shown(Grade(False, None, "no answer", "no boxed answer"))
    evaded = Evasion(40, {f"{MARKUP}{i}": 2 for i in range(20)}, {"wait": 3})
    page = shown(evaded)
    assert page.cells[0] == "40 suppressed words prevented; 15 of 20 tokens written instead"
    assert page.cells[-2:] == ["wait", "3"]


def test_large_results_have_short_texts(trace, tokenizer):
    long = "word " * 10_000
    steps = np.linspace(0.0, 1.0, 9999)
    calibration = Calibration(64, steps, steps, steps, steps, steps, steps, steps)
    measurement = Measurement(steps, calibration, {"entropy": steps}, {"x": steps}, 3)
    problem = Problem(long, long, long, long, long)
    words = tuple(
        TokenRow(f"{i}{long}", {long: 3}, (7,), 3, 10, 0.3, 0.1, 3.0, 1.25, 5.0) for i in range(99)
    )
    tokens = ThinkingTokens("emitted", words, 1959, 1891, 19_000, 100, 0.95)
    hooks = [f"blocks.{i}.hook_resid_post" for i in range(32)]
    large = Trace("id", "m", long, (1,), (2,) * 9999, long, "eos", problem=problem)
    analysis = Analysis(
        AnalyzeConfig(out=Path(), problems=long, model=long),
        (large,) * 9,
        (["a"] * 9999,) * 9,
        tuple(hooks),
        {"id": dict.fromkeys(hooks, measurement)},
        dict.fromkeys(hooks, tokens),
    )
    arms = [Arm(f"{i}{long}", results(f"{i}{long}", [True] * 40), {}) for i in range(4)]
    evaluation = Evaluation(tuple(r for arm in arms for r in arm.results), {})
    large_things = {
        "9 traces, 1 measured at 32 hook names": analysis,
        "9,999 tokens": large,
        "9,999 steps, MI 0 to 1, 64 other answers": measurement,
        "64 other answers, highest specific part 1": calibration,
        "1,959 peaks of 19,000 steps": tokens,
        "40 of 40 right": evaluation,
        "0 mended, 0 broken": compare(arms[0], arms[1]),
        "Problem('word": problem,
        "Thought(execution, steps 3 to 8": Thought("execution", long, 3, 9),
        "temperature 0": Condition((Suppress([f"w{i}" for i in range(999)]),)),
        "40 words prevented": Evasion(40, {f"{i}{long}": 2 for i in range(20)}, {}),
        "wrong: 'word": Grade(False, long, "exact", long),
        "2 problems; right within tokens: 0 at 8": BudgetCurve(
            tuple(range(8, 99)), ((False,) * 2,) * 91, ((8,) * 2,) * 91
        ),
        "2,000 words, 2,000 token ids": TokenSet({f"{i}{long}": (i,) for i in range(2000)}),
        "9,999 tokens)": ColouredTrace(long, ("a",) * 9999, (0.0,) * 9999, frozenset()),
    }
    for fact, thing in large_things.items():
        assert fact in repr(thing)
        assert len(repr(thing)) < 320


def test_numbers_of_peaks():
    statistics = peak_statistics([0.0, 1.0, 0.0, 0.25, 9.0], [4])
    cells = shown(statistics).cells
    assert cells[:4] == ["steps", "5", "count", "1"]
    assert dict(zip(cells[::2], cells[1::2], strict=True))["interval mean"] == "–"


def test_words_at_peaks():
    rows = [
        TokenRow(f"w{i}{MARKUP}", {f" w\n{MARKUP}": 3}, (7,), 3, 10, 0.3, 0.1, 3.0, 1.25, 5.0)
        for i in range(20)
    ]
    page = shown(ThinkingTokens("emitted", tuple(rows), 1959, 1891, 19_000, 100, 0.95))
    assert page.cells[0].startswith("1,959 peaks among 19,000 steps of 100 traces; 1,891")
    assert page.cells[0].endswith("15 of 20 words shown")
    assert page.cells[7:15] == [
        "lift (95 % interval)",
        f"w0{MARKUP}",
        repr(f" w\n{MARKUP}"),
        "3",
        "10",
        "0.3",
        "0.1",
        "3 (1.25 to 5)",
    ]
    assert len(page.cells) == 8 + 15 * 7
    assert shown(TokenSet({"wait": (3, 5)})).cells[3:] == ["wait", "2", "3, 5"]


def test_a_steering_vector():
    counts: dict[ThoughtClass, int] = {"execution": 1200, "reflection": 3, "transition": 4}
    vector = SteeringVector(
        f"blocks.1{MARKUP}",
        torch.tensor([3.0, 4.0]),
        MARKUP,
        "E-RT",
        MARKUP,
        counts,
        {"k": "p"},
        None,
    )
    cells = shown(vector).cells
    assert cells[:5] == ["steering vector", "hook name", f"blocks.1{MARKUP}", "norm", "5"]
    assert "1,200 execution, 3 reflection, 4 transition (rule" in cells[10]
    assert cells[-1] == "–"


def results(name, right, capped=()):
    return tuple(
        Result(
            f"p{i}",
            MARKUP,
            MARKUP,
            name,
            0,
            f"t{i}",
            None,
            correct,
            "text",
            100 + i,
            None,
            "length" if i in capped else "eos",
            None,
        )
        for i, correct in enumerate(right)
    )


def test_comparisons():
    base = Arm("base", results("base", [True, True, True, False], {1}), {"engine": "a"})
    arm = Arm(MARKUP, results(MARKUP, [False, False, True, True]), {"engine": MARKUP})
    comparison = compare(arm, base)
    cells = shown(comparison).cells
    assert cells[0] == f"{MARKUP} against base"
    facts = dict(zip(cells[1::2], cells[2::2], strict=True))
    assert facts["accuracy, %"] == "50"
    assert facts["mended, broken"] == "1, 2"
    assert facts["capped before [1]"].startswith("-100.0")
    assert f"level {MARKUP} [4]" in facts
    assert repr(MARKUP) in facts["settings that differ"]
    page = Page(report_table([arm], base))
    assert page.cells[0].startswith("4 problems; differences from 'base'")
    assert page.cells[11:21] == ["base", "75", "", "", "", "", "", "102", "", "25"]
    assert page.cells[21:23] == [MARKUP, "50"]
    assert page.cells[24:27] == ["open", "1", "2"]
    assert shown(Evaluation((*base.results, *arm.results), {})).cells == page.cells


def test_estimates_and_curves():
    separable = shown(Separability(0.75, 0.7, 0.8, 30, 20, 5))
    assert separable.cells[1::2] == ["0.75 (0.7 to 0.8)", "30", "20", "5"]
    assert shown(Estimate(0.5, 0.25, 0.75, 4)).cells[1] == "0.5 (0.25 to 0.75)"
    curve = BudgetCurve((8, 16), ((False,), (True,)), ((8,), (9,)))
    assert shown(curve).cells[3:] == ["8", "0", "8", "16", "1", "9"]


def test_counts_of_thoughts(trace, tokenizer):
    (everything, *_) = thought_statistics(tokenizer, [trace])
    cells = shown(everything).cells
    assert cells[0] == "1 traces"
    assert [cells[6 + 5 * i] for i in range(3)] == ["execution", "reflection", "transition"]
    assert sum(int(cells[7 + 5 * i]) for i in range(3)) == 2


def test_controls():
    estimate = Estimate(0.5, 0.25, 0.75, 4)
    mismatch = MismatchSummary(
        63, 0.01, estimate, 0.5, 0.25, 0.125, estimate, estimate, {"entropy": estimate}
    )
    summary = ControlSummary(
        4,
        0.02,
        3.0,
        mismatch,
        0.0,
        {"entropy": estimate},
        {},
        {MARKUP: Variant(0.01, None, None)},
    )
    cells = shown(summary).cells
    assert "answers of 63 other problems" in cells
    assert cells[cells.index("beyond this chance") + 1] == estimate.text
    assert MARKUP in cells
    assert cells[-2:] == ["correlation with entropy", "0.5 (0.25 to 0.75)"]
    alone = ControlSummary(4, 0.02, 3.0, None, 0.0, {}, {}, {})
    assert "other problems" not in shown(alone).text


def test_the_parts_need_no_torch():
    parts = "mi_lens.common.html, mi_lens.report.coloured_trace"
    code = f"import {parts}, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
