from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest

from mi_lens.common.statistics import Estimate
from mi_lens.evaluation.critical_tokens import Rollouts
from mi_lens.evaluation.word_contrast import WordContrast, WordRow
from mi_lens.information.across_problems.thought_gains import ThoughtGains
from mi_lens.report.plots.paired_analyses import paired_peaks_figure
from mi_lens.report.plots.style import BLUE, GREY, ORANGE
from mi_lens.report.plots.thoughts import gains_figure, reading_figure, resampled_figure
from mi_lens.report.plots.words import attention_figure, rollouts_figure, words_figure
from mi_lens.runs.paired_analyses import PairedQuantity, PeakComparison
from mi_lens.states.attention_to_words import AttentionTo
from mi_lens.steering.reading_vectors import compare_directions
from mi_lens.traces.matched_thoughts import Balance, PairedContrast
from mi_lens.traces.thoughts import THOUGHT_CLASSES, Thought
from tests.steering.test_reading_vectors import sample

E = Estimate(0.2, 0.1, 0.4, 9)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def draw(figure):
    figure.canvas.draw()  # Layout, which would warn of what does not fit.
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def marks(axes):
    return [line for line in axes.lines if line.get_marker() == "o" and len(line.get_xdata())]


def test_paired_peaks():
    def quantity(name, in_units):
        return PairedQuantity(name, in_units, (1.0, 2.0), (2.0, 2.5), E, E, E, 0.5, 0.5)

    shown = {"mean MI": quantity("mean MI", True), "AOM": quantity("AOM", False)}
    figure = paired_peaks_figure(PeakComparison(("a", "b"), ("p", "q"), (), {}, shown))
    draw(figure)
    colours = [axes.lines[0].get_color() for axes in figure.axes]
    assert colours == [GREY, BLUE]
    assert figure.axes[1].get_title(loc="left") == "AOM\n+0.2 (+0.1, +0.4)"
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_xdata(), [2.0, 2.5])


def test_words_that_are_significant_are_marked():
    rows = tuple(WordRow(w, 0.3, 0.1, E, 0.01, p) for w, p in (("$so", 0.01), ("wait", 0.5)))
    figure = words_figure(WordContrast(rows, 9, 9, 9, 0))
    draw(figure)
    assert [mark.get_color() for mark in marks(figure.axes[0])] == [ORANGE, GREY]
    assert marks(figure.axes[0])[0].get_xdata() == pytest.approx([20.0])  # per 100 tokens
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["$so", "wait"]


def test_rollouts():
    rollouts = [
        Rollouts(str(i), str(i), 0, 0, "x", 0.5, (False, False), (True, i > 2)) for i in range(6)
    ]
    figure = rollouts_figure({"all": rollouts, "one": rollouts[:1]})
    draw(figure)
    labels = [t.get_text() for t in figure.axes[1].get_yticklabels()]
    assert labels == ["all (6)", "one (1)"]
    assert marks(figure.axes[1])[0].get_xdata() == pytest.approx([0.75])


def test_gains():
    thoughts = tuple(Thought(kind, "x", 1, 2) for kind in THOUGHT_CLASSES)
    gains = [
        ThoughtGains("t", str(i), thoughts, (), (9.0, 8.0, 4.0, 2.0, float(i))) for i in range(3)
    ]
    figure = gains_figure({"right": gains, "wrong": gains[:1]})
    draw(figure)
    line = np.asarray(figure.axes[0].lines[0].get_ydata())
    assert line[0] == pytest.approx(2.0**-9)
    assert line[-1] == pytest.approx((1 + 0.5 + 0.25) / 3)
    assert marks(figure.axes[1])[0].get_xdata() == pytest.approx([4.0])
    boxes = [axes.xaxis.label.get_window_extent() for axes in figure.axes]
    assert all(a.x1 < b.x0 for a, b in pairwise(boxes))


@pytest.mark.parametrize("heads", [2, 16])
def test_attention(heads):
    ratio = np.full((3, heads), 0.5)
    ratio[1, 1] = 4.0
    p = np.where(ratio > 1, 0.01, 0.9)
    attention = AttentionTo(ratio, ratio, ratio, ratio, ratio, p, E, (E,) * 3, 5, 0, 4, {"so": 3})
    figure = attention_figure({"reflection": attention, "other": attention})
    written = draw(figure)
    assert written.count("4.00") == (2 if heads == 2 else 0)  # Too many heads to write in.
    bold = [t for t in figure.axes[0].texts if t.get_fontweight() == "bold"]
    assert [t.get_text() for t in bold] == (["4.00"] if heads == 2 else [])
    assert figure.axes[0].get_title(loc="left") == "reflection\noverall 0.20 (0.10, 0.40)"


def test_directions():
    vectors = compare_directions(*sample(n=100, problems=12), hook_name="x")
    names = ["blocks.0.hook_resid_pre", "blocks.12.hook_resid_post", "ln_final.hook_normalized"]
    figure = reading_figure(dict.fromkeys(names, vectors))
    draw(figure)
    ticks = [t.get_text() for t in figure.axes[0].get_xticklabels()]
    assert ticks == ["0 pre", "12 post", "ln_final.hook_normalized"]
    assert marks(figure.axes[0])[0].get_ydata() == pytest.approx(
        [vectors.auc["difference of means"].auc] * 3
    )


def test_importance_at_peaks_and_at_controls():
    def around(mean):
        return Estimate(mean, mean - 0.1, mean + 0.1, 5)

    contrast = PairedContrast(around(0.2), around(0.5), around(0.3), 7, 1)
    balance = {"entropy": Balance(0.4, 0.1), "length": Balance(0.2, None), "x": Balance(None, None)}
    classes = {
        "execution": (around(0.6), around(0.1)),
        "reflection": (around(0.1), Estimate(None, None, None, 0)),
    }
    figure = resampled_figure({"anew": contrast, "gone": contrast}, balance, classes, alike=0.3)
    left, middle, right = figure.axes
    means = [np.asarray(line.get_xdata())[0] for line in left.lines if line.get_marker() == "o"]
    assert means == [0.5, 0.5, 0.3, 0.3, 0.2, 0.2]
    assert [label.get_text() for label in middle.get_yticklabels()] == ["entropy", "length"]
    before, after = (line.get_xdata() for line in middle.lines)
    np.testing.assert_equal(before, [0.4, 0.2])
    np.testing.assert_equal(after, [0.1, np.nan])
    means = [np.asarray(line.get_xdata())[0] for line in right.lines if line.get_marker() == "o"]
    assert means == [0.6, 0.1, 0.1]
