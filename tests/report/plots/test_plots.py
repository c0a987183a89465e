import json

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

from mi_lens.information.per_trace.thinking_tokens import ThinkingTokens, TokenRow
from mi_lens.report.plots.peaks import Curve, comparison_figure, resampled, trajectories_figure
from mi_lens.report.plots.style import save_figure, style
from mi_lens.report.plots.words import tokens_figure


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_the_highest_peaks_are_named_and_names_do_not_meet():
    mi = np.zeros(140)
    mi[[10, 12, 60]] = [1.0, 2.0, 3.0]
    curve = Curve("$x_1$ <b>", mi.tolist(), [10, 12, 60], [f"${i}" for i in range(140)])
    figure = trajectories_figure([curve, curve])
    assert texts(figure) == ["$60", "$12"] * 2  # 10 stands too near to 12.
    low, high = figure.axes[0].get_ylim()
    assert low < 0
    assert high > 3


def test_a_band_and_specific_peaks():
    mi = np.sin(np.arange(30.0)).tolist()
    band = ([-2.0] * 30, [5.0] * 30)
    curve = Curve("q", mi, [2], ["a"] * 30, mismatched=band, specific_peaks=[2])
    figure = trajectories_figure([curve])
    assert figure.axes[0].get_ylim()[1] > 5
    names = figure.axes[0].get_legend_handles_labels()[1]
    assert names == [
        "other answers (95 %)",
        "gold answer",
        "Q3 + τ·IQR",
        "raw peak",
        "specific peak",
    ]


def test_a_constant_trajectory_can_be_drawn():
    trajectories_figure([Curve("q", [0.5] * 8, [], ["a"] * 8)])
    with pytest.raises(ValueError, match="no trajectories to draw"):
        trajectories_figure([])


def test_resampled():
    np.testing.assert_allclose(resampled([0.0, 1.0, 2.0], 5), [0, 0.5, 1, 1.5, 2])


def test_comparison_without_peaks():
    figure = comparison_figure(
        {"a": [[0.0, 1.0, 2.0]] * 3, "b": [[1.0] * 5] * 2}, {"a": [2.0, 3.0]}
    )
    assert [tick.get_text() for tick in figure.axes[1].get_xticklabels()] == ["a", "b"]


def test_words(tmp_path):
    row = TokenRow("Wait", {" Wait": 3}, (7,), 3, 10, 0.3, 0.1, 3.0, 1.0, 5.0)
    table = ThinkingTokens("emitted", (row,), 10, 7, 100, 4, 0.95)
    figure = tokens_figure(table)
    (marks,) = [line for line in figure.axes[0].lines if line.get_marker() == "D"]
    assert marks.get_xdata() == pytest.approx([1.0])
    empty = ThinkingTokens("emitted", (), 0, 0, 100, 4, 0.95)
    assert "no word stands at a peak" in texts(tokens_figure(empty))
    paths = save_figure(figure, tmp_path / "words", {"peaks": 10})
    assert [path.suffix for path in paths] == [".png", ".svg", ".json"]
    assert json.loads(paths[2].read_text()) == {"peaks": 10}
    first = paths[1].read_bytes()
    save_figure(tokens_figure(table), tmp_path / "again", {})
    assert (tmp_path / "again.svg").read_bytes() == first  # The same picture every time.


def test_what_a_notebook_sets_while_drawing_stays_set():
    before = plt.isinteractive()
    try:
        with style():
            plt.ion()
        assert plt.isinteractive()
    finally:
        matplotlib.interactive(before)
