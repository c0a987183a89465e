"""The figures of analyses, drawn into a page and saved as files."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from mi_lens.common.html import one_line
from mi_lens.report.loading import Run
from mi_lens.report.page_svg import page_svg
from mi_lens.report.plots.peaks import Curve, comparison_figure, trajectories_figure
from mi_lens.report.plots.style import printable, save_figure, style
from mi_lens.report.plots.words import tokens_figure
from mi_lens.runs.analysis import Analysis
from mi_lens.traces.trace import Trace

CURVES = 3  # Trajectories drawn per analysis.
COMPARED = 3  # Models that the comparison has colours for.


@dataclass(frozen=True)
class Image:
    """A figure as SVG in the page's colours, with its alternative text and its caption."""

    svg: str
    alt: str
    caption: str


def comparison_image(runs: Sequence[Run], folder: Path | None) -> Image | None:
    """Models side by side, each at its first hook name; None for fewer than two analyses."""
    drawable = {run.name: run.analysis for run in runs if run.analysis and run.analysis.analysed}
    analyses = dict(list(drawable.items())[:COMPARED])
    if len(analyses) < 2:
        return None
    trajectories, aoms = {}, {}
    for name, analysis in analyses.items():
        hook_name = analysis.hook_names[0]
        trajectories[name] = [analysis.mi(trace, hook_name) for trace in analysis.analysed]
        statistics = [analysis.statistics(trace, hook_name) for trace in analysis.analysed]
        aoms[name] = [row.aom for row in statistics if row.aom is not None]
    left_out = f" Only the first {COMPARED} models are drawn." if len(drawable) > COMPARED else ""
    return _image(
        comparison_figure(trajectories, aoms),
        folder,
        "comparison",
        {"trajectories": trajectories, "aom": aoms},
        "Mean MI along the trace and AOM by model",
        "Left: mean trajectory over traces. Right: AOM of every trace, with the mean and its 95 % "
        f"interval.{left_out}",
    )


def run_images(name: str, analysis: Analysis, folder: Path | None) -> list[Image]:
    """Trajectories and words of one analysis at its first hook name."""
    hook_name = analysis.hook_names[0]
    curves = [_curve(analysis, trace, hook_name) for trace in analysis.analysed[:CURVES]]
    stem = re.sub(r"[^\w.-]+", "-", Path(name).name)
    images = [
        _image(
            trajectories_figure(curves, analysis.peak_rule),
            folder,
            f"{stem}_trajectories",
            {"hook_name": hook_name, "curves": [asdict(curve) for curve in curves]},
            f"MI trajectories of {name} with peaks marked",
            f"Trajectories at {hook_name}; the highest peaks carry the token they decode to "
            f"({analysis.config.readout}).",
        )
    ]
    if hook_name in analysis.tokens:
        table = analysis.tokens[hook_name]
        images.append(
            _image(
                tokens_figure(table),
                folder,
                f"{stem}_tokens",
                asdict(table),
                f"Words at the peaks of {name}",
                f"Words at peaks at {hook_name}. A word right of its diamond peaks more often than "
                "its frequency explains.",
            )
        )
    return images


def _image(
    figure: Figure, folder: Path | None, stem: str, numbers: dict[str, Any], alt: str, caption: str
) -> Image:
    """Turns a figure into an image, and saves it where there is a folder."""
    if folder is None:
        drawn = BytesIO()
        with style():
            figure.savefig(drawn, format="svg", metadata={"Date": None})
        plt.close(figure)
        svg = drawn.getvalue()
    else:
        svg = save_figure(figure, folder / stem, numbers)[1].read_bytes()
    return Image(page_svg(svg, stem), alt, caption)


def _curve(analysis: Analysis, trace: Trace, hook_name: str) -> Curve:
    index = analysis.traces.index(trace)
    graded = analysis.grades[index]
    verdict = "" if graded is None else "  (right)" if graded.correct else "  (wrong)"
    question = trace.problem.question if trace.problem else trace.prompt
    calibration = analysis.measurement(trace, hook_name).calibration
    return Curve(
        title=printable(f"{one_line(question, 70)}{verdict}"),
        mi=analysis.mi(trace, hook_name),
        peaks=analysis.peaks(trace, hook_name),
        labels=[printable(string) for string in analysis.token_strings[index]],
        mismatched=None if calibration is None else calibration.band(),
        specific_peaks=analysis.specific_peaks(trace, hook_name),
    )
