"""The figure of one trace: its panels share the steps, and hold what was given."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex

from mi_lens.report.plots.style import CLASS_COLOURS, PURPLE
from mi_lens.report.plots.trace_axis import plot_trace
from mi_lens.traces.thoughts import split_thoughts
from tests.evaluation.along import a_belief, resampled, rollouts_at
from tests.report.conftest import THOUGHTS, a_measurement, a_trace


@pytest.fixture(scope="module")
def trace(tokenizer):
    return a_trace(tokenizer, THOUGHTS * 2, "What is 12 * 7 - 5, in $dollars$?")


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def labels(figure):
    return [axes.get_ylabel() for axes in figure.axes]


def everything(trace, tokenizer, **changes):
    thoughts = split_thoughts(tokenizer, trace)
    given = {
        "measurement": a_measurement(len(trace), 1),
        "belief": a_belief(trace),
        "rollouts": [rollouts_at(trace, 3)],
        "resampled": [resampled(trace, thoughts[0])],
        "thoughts": thoughts,
        "tokens": trace.token_strings(tokenizer),
    }
    return plot_trace(trace, **(given | changes))


def texts_that_overlap(figure):
    """Pairs of labels, marks of axes, titles and legends that lie over each other."""
    figure.canvas.draw()
    shown = []
    for axes in figure.axes:
        low, high = sorted(axes.get_ylim())
        ticks = [tick for tick in axes.yaxis.get_major_ticks() if low <= tick.get_loc() <= high]
        parts = [axes.yaxis.label, axes.title, *(tick.label1 for tick in ticks)]
        if axes.get_legend() is not None:
            parts.append(axes.get_legend())
        if axes is figure.axes[-1]:
            parts.append(axes.xaxis.label)
        shown += [(str(part), part.get_window_extent()) for part in parts]
    boxes = [(name, box) for name, box in shown if box.width > 0]
    return [
        (name, other)
        for i, (name, box) in enumerate(boxes)
        for other, before in boxes[:i]
        if box.overlaps(before)
    ]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_all_panels_share_the_axis_of_steps(trace, tokenizer, theme):
    figure = everything(trace, tokenizer, theme=theme)
    assert [label.split("\n")[0] for label in labels(figure)] == [
        "MI$(h_t; h_y)$",
        "belief",
        "entropy",
        "right with it",
        "",
    ]
    limits = {axes.get_xlim() for axes in figure.axes}
    assert len(limits) == 1
    assert limits.pop()[1] == pytest.approx(1.01 * len(trace))
    assert texts_that_overlap(figure) == []
    assert figure.axes[0].get_title(loc="left") == "What is 12 * 7 - 5, in $dollars$?"


def test_what_is_drawn_is_what_was_given(trace, tokenizer):
    figure = everything(trace, tokenizer)
    mi, belief, entropy, effects, thoughts = figure.axes
    measurement, asked = a_measurement(len(trace), 1), a_belief(trace)
    np.testing.assert_array_equal(mi.lines[0].get_ydata(), measurement.mi)
    for line, of_answer in zip(belief.lines, (asked.gold, asked.final), strict=False):
        assert of_answer is not None
        assert tuple(np.asarray(line.get_xdata())) == asked.cuts
        np.testing.assert_allclose(np.asarray(line.get_ydata()), of_answer.probabilities)
    np.testing.assert_array_equal(entropy.lines[0].get_ydata(), measurement.covariates["entropy"])
    drawn = {
        tuple(np.asarray(line.get_xdata())): np.asarray(line.get_ydata())[0]
        for line in effects.lines
    }
    first = split_thoughts(tokenizer, trace)[0]
    assert drawn[first.start, first.stop - 1] == 0.5
    assert drawn[3,] == 0.5
    colours = [to_hex(tuple(np.asarray(bars.get_facecolor())[0])) for bars in thoughts.collections]
    assert colours == [colour.lower() for colour in CLASS_COLOURS.values()]
    spans = [[path.get_extents().bounds for path in b.get_paths()] for b in thoughts.collections]
    all_thoughts = split_thoughts(tokenizer, trace)
    expected = [
        [(t.start, t.stop - t.start) for t in all_thoughts if t.thought_class == name]
        for name in CLASS_COLOURS
    ]
    assert [[(x, width) for x, _, width, _ in of_class] for of_class in spans] == expected
    for axes in figure.axes:
        settled = [line for line in axes.lines if to_hex(line.get_color()) == PURPLE.lower()]
        starts = [np.asarray(line.get_xdata()) for line in settled]
        assert asked.cuts[3] in [xdata[0] for xdata in starts if len(xdata)]


def test_a_panel_without_data_is_left_out(trace, tokenizer):
    thoughts = split_thoughts(tokenizer, trace)
    assert labels(plot_trace(trace, thoughts=thoughts)) == [""]
    assert labels(plot_trace(trace, belief=a_belief(trace))) == ["belief"]
    entropy = np.ones(len(trace))
    assert labels(plot_trace(trace, entropy=entropy)) == ["entropy\n(bits)"]
    few = a_measurement(len(trace), 1, others=3)  # too few for peaks to be significant
    bare = replace(few, covariates={}, calibration=None)
    assert labels(plot_trace(trace, measurement=bare)) == ["MI$(h_t; h_y)$"]
    assert len(labels(plot_trace(trace, measurement=few))) == 2
    elsewhere = replace(rollouts_at(trace, 3), trace="another")
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_trace(trace, rollouts=[elsewhere])


def test_a_step_that_settles_nothing_is_not_drawn(trace):
    belief = a_belief(trace)
    figure = plot_trace(trace, belief=replace(belief, final=None))
    (axes,) = figure.axes
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["gold: 79"]
    assert len(axes.lines) == 1


def test_a_trace_of_one_step(tokenizer):
    trace = a_trace(tokenizer, "a", "Q?")
    assert len(trace) == 1
    figure = plot_trace(trace, entropy=[0.0])
    figure.canvas.draw()
    assert labels(figure) == ["entropy\n(bits)"]


def test_what_is_of_another_trace_is_refused(trace, tokenizer):
    steps = len(trace)
    with pytest.raises(ValueError, match=f"of {steps} steps with MI of shape"):
        everything(trace, tokenizer, measurement=a_measurement(steps - 1, 1))
    with pytest.raises(ValueError, match=f"of {steps} steps with entropy of shape"):
        everything(trace, tokenizer, entropy=np.ones(3))
    with pytest.raises(ValueError, match="a belief of trace another with trace"):
        everything(trace, tokenizer, belief=replace(a_belief(trace), trace="another"))
    with pytest.raises(ValueError, match=f"1 tokens for {steps} steps"):
        everything(trace, tokenizer, tokens=["a"])
    late = replace(split_thoughts(tokenizer, trace)[0], stop=steps + 1)
    with pytest.raises(ValueError, match=f"to {steps + 1} in trace"):
        everything(trace, tokenizer, thoughts=[late])
