import re
import subprocess
import sys
from html.parser import HTMLParser

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
from mi_lens.information.per_trace.peak_rules import IQR
from mi_lens.information.per_trace.peaks import find_peaks, peak_statistics
from mi_lens.information.per_trace.thinking_tokens import ThinkingTokens, TokenRow
from mi_lens.interventions.vector import SteeringVector
from mi_lens.problems.problem import Problem
from mi_lens.report.coloured_trace import BLUE, DEEPEST, ORANGE, show
from mi_lens.steering.separability import Separability
from mi_lens.traces.thought_statistics import thought_statistics
from mi_lens.traces.thoughts import ThoughtClass
from mi_lens.traces.trace import Trace
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
    np.testing.assert_allclose(heat, DEEPEST * (mi - mi.min()) / np.ptp(mi), atol=0.0051)
    assert tokens[3]["title"] == f"step 3: {mi[3]:.4g}" + ", peak" * (3 in peaks)
    assert MARKUP in page.text


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
    assert page.cells[10:19] == ["base", "75", "", "", "", "", "102", "", "25"]
    assert page.cells[19:21] == [MARKUP, "50"]
    assert page.cells[22:24] == ["1", "2"]
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
    mismatch = MismatchSummary(63, 0.01, estimate, 0.5, 0.25, {"entropy": estimate})
    summary = ControlSummary(
        4, 0.02, 3.0, mismatch, 0.0, {"entropy": estimate}, {MARKUP: Variant(0.01, None, None)}
    )
    cells = shown(summary).cells
    assert "answers of 63 other problems" in cells
    assert MARKUP in cells
    assert cells[-2:] == ["correlation with entropy", "0.5 (0.25 to 0.75)"]
    alone = ControlSummary(4, 0.02, 3.0, None, 0.0, {}, {})
    assert "other problems" not in shown(alone).text


def test_the_parts_need_no_torch():
    parts = "mi_lens.common.html, mi_lens.report.coloured_trace"
    code = f"import {parts}, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
