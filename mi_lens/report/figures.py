"""The figures of analyses, drawn into a page and saved as files."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from mi_lens.common.html import one_line
from mi_lens.evaluation.evaluate import Evaluation
from mi_lens.report.findings import last_hook_name
from mi_lens.report.loading import Run
from mi_lens.report.page_svg import page_svg
from mi_lens.report.plots.peaks import Curve, comparison_figure, trajectories_figure
from mi_lens.report.plots.style import printable, save_figure, style
from mi_lens.report.plots.sweeps import curves_figure, sweep_curves
from mi_lens.report.plots.words import tokens_figure
from mi_lens.runs.analysis import Analysis
from mi_lens.runs.sweep_spec import Point
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
    """Models side by side, each at its last hook name; None for fewer than two analyses."""
    drawable = {run.name: run.analysis for run in runs if run.analysis and run.analysis.analysed}
    analyses = dict(list(drawable.items())[:COMPARED])
    if len(analyses) < 2:
        return None
    trajectories, aoms = {}, {}
    for name, analysis in analyses.items():
        hook_name = last_hook_name(analysis)
        trajectories[name] = [analysis.mi(trace, hook_name) for trace in analysis.analysed]
        statistics = [analysis.statistics(trace, hook_name) for trace in analysis.analysed]
        aoms[name] = [row.aom for row in statistics if row.aom is not None]
    left_out = f" Only the first {COMPARED} models are drawn." if len(drawable) > COMPARED else ""
    return image_of(
        comparison_figure(trajectories, aoms),
        folder,
        "comparison",
        {"trajectories": trajectories, "aom": aoms},
        "Mean MI along the trace and AOM by model",
        "Left: mean trajectory over traces. Right: AOM of every trace, with the mean and its 95 % "
        f"interval.{left_out}",
    )


def run_images(name: str, analysis: Analysis, folder: Path | None) -> list[Image]:
    """Trajectories and words of one analysis at its last hook name."""
    hook_name = last_hook_name(analysis)
    curves = [_curve(analysis, trace, hook_name) for trace in analysis.analysed[:CURVES]]
    stem = _stem(name)
    images = [
        image_of(
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
            image_of(
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


def sweep_images(
    name: str, evaluation: Evaluation, points: Sequence[Point], folder: Path | None
) -> list[Image]:
    """The curves of a sweep, of one model: one image per family of conditions on the grid."""
    return [
        image_of(
            curves_figure(curves),
            folder,
            f"{_stem(name)}_{_stem(curves.family)}",
            asdict(curves),
            f"Accuracy of {name} along the grid of {curves.family}",
            f"Accuracy under {curves.family} by {' and by '.join(curves.names)}, with 95 % "
            f"intervals over problems; grey: {curves.against}.",
        )
        for curves in sweep_curves(evaluation, points)
    ]


def save_sweep_curves(
    evaluations: Mapping[str, Evaluation],
    points: Sequence[Point],
    folder: Path,
    against: str | None = None,
) -> list[Path]:
    """Saves the curves of a sweep as PNG, SVG and JSON, for every model and family of conditions.

    Args:
        evaluations: Model to its results.
        points: The conditions of the sweep and their places on its grid.
        folder: Where to.
        against: The condition drawn as the baseline; None takes the first.

    Returns:
        The paths.

    Raises:
        ValueError: If no condition varies along the grid.
    """
    paths = []
    for model, evaluation in evaluations.items():
        for curves in sweep_curves(evaluation, points, against):
            stem = folder / f"{_stem(model)}_{_stem(curves.family)}"
            paths += save_figure(curves_figure(curves), stem, asdict(curves))
    if not paths:
        raise ValueError(
            "nothing to draw: no condition varies along the sweep's grid; expected a grid, such as "
            "'layer: [0, 1]', and a condition that names it in braces, such as "
            "\"rr{layer}=Recycle({layer}, ['Wait'])\""
        )
    return paths


def _stem(name: str) -> str:
    """A name as part of a file's name."""
    return re.sub(r"[^\w.-]+", "-", Path(name).name).strip("-")


def image_of(
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
