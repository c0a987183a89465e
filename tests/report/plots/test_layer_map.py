"""The map of layers and steps: what is drawn is what was measured."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from mi_lens.information.per_trace.peak_rules import IQR
from mi_lens.information.per_trace.peaks import find_peaks
from mi_lens.report.palette import contrast
from mi_lens.report.plots.layer_map import plot_map, readable, thinned
from mi_lens.report.plots.map_values import layer_map
from tests.report.conftest import THOUGHTS

HOOKS = tuple(f"blocks.{layer}.hook_resid_post" for layer in range(4))
RNG = np.random.default_rng(0)
VALUES = RNG.gamma(0.5, 0.02, (4, 60))


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def analysis(build, tmp_path_factory):
    return build(tmp_path_factory.mktemp("map"), [THOUGHTS, THOUGHTS * 2], HOOKS)


def drawn(figure):
    """The values, the marks of each row, and the tokens."""
    figure.canvas.draw()  # Layout, which would warn of what does not fit.
    axes = figure.axes[0]
    marks = [sorted(line.get_xdata()) for line in axes.lines]
    assert all(set(line.get_ydata()) <= {row} for row, line in enumerate(axes.lines))
    return np.asarray(axes.images[0].get_array()), marks, axes


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [3.6, 6.8])
def test_an_analysis(analysis, theme, width):
    trace = analysis.analysed[1]
    values, marks, axes = drawn(plot_map(analysis, trace, theme=theme, width=width))
    np.testing.assert_array_equal(values, [analysis.mi(trace, name) for name in HOOKS])
    for row, name in enumerate(HOOKS):
        peaks = analysis.peaks(trace, name)
        assert set(marks[row]) <= set(peaks)
        assert len(marks[row]) > len(peaks) / 3
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "1", "2", "3"]
    specific, marks, axes = drawn(plot_map(analysis, trace, measure="specific", theme=theme))
    expected = [analysis.measurement(trace, name).calibration.specific for name in HOOKS]
    np.testing.assert_array_equal(specific, expected)
    assert set(marks[2]) <= set(analysis.specific_peaks(trace, HOOKS[2]))
    assert sum(axes.images[0].get_clim()) == 0  # The paper's colour is zero.
    ink, ground = axes.yaxis.label.get_color(), axes.figure.get_facecolor()
    assert contrast(to_hex(ink), to_hex(ground)) > 12


def test_entropy_has_one_row(analysis):
    trace = analysis.analysed[0]
    values, marks, _ = drawn(plot_map(analysis, trace, measure="entropy"))
    expected = analysis.measurement(trace, HOOKS[0]).covariates["entropy"]
    np.testing.assert_array_equal(values, expected[None])
    assert marks == [[]]


def test_a_mapping_and_an_array_draw_the_same():
    mapping = {name: torch.tensor(row) for name, row in zip(HOOKS, VALUES, strict=True)}
    one, marks, _ = drawn(plot_map(mapping, peaks=IQR(), width=20))
    other, no_marks, _ = drawn(plot_map(torch.tensor(VALUES), hook_names=HOOKS))
    np.testing.assert_array_equal(one, VALUES)
    np.testing.assert_array_equal(other, VALUES)
    assert marks == [find_peaks(row).tolist() for row in VALUES]
    assert no_marks == [[]] * 4
    chosen, marks, _ = drawn(plot_map(mapping, hook_names=HOOKS[2:0:-1], peaks={HOOKS[2]: [7]}))
    np.testing.assert_array_equal(chosen, VALUES[2:0:-1])
    assert marks == [[7], []]


def test_every_row_on_a_scale_of_its_own():
    scaled, *_ = drawn(plot_map(VALUES * [[1], [10], [100], [0]], hook_names=HOOKS, normalise=True))
    for row, values in zip(scaled[:3], VALUES, strict=False):
        top = np.quantile(values, 0.98)
        np.testing.assert_allclose(row, (values - values.min()) / (top - values.min()))
    assert not scaled[3].any()
    signed, *_ = drawn(plot_map(VALUES - 0.01, hook_names=HOOKS, normalise=True))
    np.testing.assert_array_equal(np.sign(signed), np.sign(VALUES - 0.01))


def test_a_long_trace_keeps_its_peaks_and_readable_tokens():
    values = RNG.normal(size=(2, 5003))
    columns = thinned(values, 1000)
    assert columns.shape == (2, 1000)
    assert np.abs(columns).max() == np.abs(values).max()
    assert set(columns.ravel()) <= set(values.ravel())
    shown = layer_map(
        {"a": values[0], "b": values[1]},
        {"a": [10, 2500], "b": [2500, 2501]},
        [f"t{i}" for i in range(5003)],
        "",
    )
    steps = readable(shown, 40)
    assert {10, 2500} <= set(steps)
    assert 2501 not in steps
    assert 20 <= len(steps) <= 41
    assert np.diff(steps).min() >= 5003 / 40


@pytest.mark.parametrize(
    ("values", "settings", "message"),
    [
        ({"a": [1.0, 2.0], "b": [1.0]}, {}, r"rows of shapes \[\(1,\), \(2,\)\]"),
        ({"a": [1.0, float("nan")]}, {}, "the value at a, step 1 is nan"),
        ({"a": [1.0, 2.0]}, {"tokens": ["x"]}, "1 tokens for 2 steps"),
        ({"a": [1.0, 2.0]}, {"peaks": {"a": [2]}}, "the peaks at a hold step 2"),
        ({"a": [1.0, 2.0]}, {"peaks": {"b": [0]}}, r"no values at \['b'\]"),
        ({"a": [1.0, 2.0]}, {"hook_names": ["b"]}, r"no values at \['b'\]"),
        ([[1.0, 2.0]], {}, "with no hook names"),
        ([1.0, 2.0], {"hook_names": ["a"]}, r"values of shape \(2,\) with 1 hook names"),
        ({}, {}, "expected one value per step"),
    ],
)
def test_what_does_not_fit_is_refused(values, settings, message):
    with pytest.raises(ValueError, match=message):
        plot_map(values, **settings)


def test_an_analysis_says_what_it_lacks(analysis):
    trace = analysis.analysed[0]
    with pytest.raises(ValueError, match=r"pass one of analysis\.analysed"):
        plot_map(analysis)
    with pytest.raises(ValueError, match="a trace goes with an analysis"):
        plot_map({"a": [1.0, 2.0]}, trace)


def test_a_map_without_specific_peaks_says_why(analysis):
    trace = analysis.analysed[0]
    few = {
        name: replace(m, calibration=replace(m.calibration, others=5))
        for name, m in analysis.measurements[trace.id].items()
    }
    short = replace(analysis, measurements={trace.id: few})
    _, marks, axes = drawn(plot_map(short, trace, measure="specific"))
    assert marks == [[]] * 4
    title = " ".join(axes.get_title(loc="left").split())
    assert "no peaks: 5 other answers are too few, it takes 19" in title
