"""One self-contained HTML page of what a run found."""

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from mi_lens.analysis import Analysis
from mi_lens.files import write_text
from mi_lens.grading import grade
from mi_lens.information.readings import Reading
from mi_lens.plots import (
    Curve,
    comparison_figure,
    tokens_figure,
    trajectories_figure,
)
from mi_lens.runs import versions
from mi_lens.style import save_figure
from mi_lens.traces import Trace

CURVES = 3  # Trajectories drawn of each model.
WORDS = 15  # Rows of the table of words.
FINDINGS = (  # Field of a summary, its label, digits.
    ("traces", "problems", 0),
    ("accuracy", "accuracy", 3),
    ("tokens", "tokens per trace", 0),
    ("mi", "mean MI", 4),
    ("mismatched", "with other answers", 4),
    ("peaks", "peaks per trace", 1),
    ("specific_peaks", "specific peaks", 2),
    ("interval", "steps between peaks", 1),
    ("aom", "AOM", 2),
)


@dataclass(frozen=True)
class Step:
    """One generated token in the text of a trace."""

    text: str
    mi: float
    heat: float
    peak: bool


def write_report(analyses: Mapping[str, Analysis], folder: str | Path) -> Path:
    """Draws the figures of one or more analyses and writes `report.html` around them.

    Every model is shown at the first hook name that was read from it; a comparison is drawn where
    there is more than one model.

    Args:
        analyses: Model name to what was found; the first one's trace is shown as text.
        folder: Gets figures/ (PNG, SVG and the numbers as JSON) and report.html.

    Returns:
        The path of the page.
    """
    folder = Path(folder)
    figures = folder / "figures"
    first = next(iter(analyses.values()))
    environment = Environment(
        loader=PackageLoader("mi_lens.report", "."), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("report.html.j2").render(
        models=[_summary(name, analysis) for name, analysis in analyses.items()],
        sections=[_section(name, analysis, figures) for name, analysis in analyses.items()],
        comparison=_comparison(analyses, figures) if len(analyses) > 1 else None,
        shown=_shown(first),
        config=first.config,
        words=WORDS,
        versions=versions(),
    )
    path = folder / "report.html"
    write_text(path, page)
    return path


def findings(analyses: Mapping[str, Analysis]) -> str:
    """The main findings as a short table of text, a column a model."""
    columns = [["", *(label for _, label, _ in FINDINGS), "words at peaks (lift)"]]
    for name, analysis in analyses.items():
        summary = _summary(name, analysis)
        values = [summary[field] for field, _, _ in FINDINGS]
        numbers = [
            "–" if value is None else f"{value:.{digits}f}"
            for value, (_, _, digits) in zip(values, FINDINGS, strict=True)
        ]
        rows = analysis.tokens[summary["hook_name"]].rows[:5]
        words = ", ".join(f"{row.word} ({row.lift:.1f})" for row in rows) or "none"
        columns.append([name, *numbers, words])
    widths = [max(map(len, column)) for column in columns]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in zip(*columns, strict=True)
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def _summary(name: str, analysis: Analysis) -> dict[str, Any]:
    hook_name = analysis.hook_names[0]
    mismatch = analysis.controls(hook_name).mismatch
    return {
        "name": name,
        "fingerprint": analysis.traces[0].model,
        **analysis.summary(hook_name),
        "mismatched": None if mismatch is None else mismatch.mi,
        "specific_peaks": None if mismatch is None else mismatch.peaks,
    }


def _section(name: str, analysis: Analysis, figures: Path) -> dict[str, Any]:
    hook_name = analysis.hook_names[0]
    table = analysis.tokens[hook_name]
    curves = [_curve(analysis, trace, hook_name) for trace in analysis.analysed[:CURVES]]
    stem = Path(name).name
    return {
        "name": name,
        "hook_name": hook_name,
        "table": table,
        "controls": analysis.controls(hook_name),
        "trajectories": _image(
            trajectories_figure(curves, analysis.config.tau),
            figures / f"{stem}_trajectories",
            {"hook_name": hook_name, "curves": [asdict(curve) for curve in curves]},
        ),
        "words": _image(tokens_figure(table), figures / f"{stem}_tokens", asdict(table)),
    }


def _comparison(analyses: Mapping[str, Analysis], figures: Path) -> str:
    trajectories = {}
    aoms = {}
    for name, analysis in analyses.items():
        hook_name = analysis.hook_names[0]
        trajectories[name] = [analysis.mi(trace, hook_name) for trace in analysis.analysed]
        statistics = [analysis.statistics(trace, hook_name) for trace in analysis.analysed]
        aoms[name] = [row.aom for row in statistics if row.aom is not None]
    return _image(
        comparison_figure(trajectories, aoms),
        figures / "comparison",
        {"trajectories": trajectories, "aom": aoms},
    )


def _image(figure: Figure, stem: Path, numbers: dict[str, Any]) -> str:
    """Saves a figure and returns it as the address of an image inside the page."""
    _, svg, _ = save_figure(figure, stem, numbers)
    return "data:image/svg+xml;base64," + b64encode(svg.read_bytes()).decode()


def _curve(analysis: Analysis, trace: Trace, hook_name: str) -> Curve:
    assert trace.problem is not None
    verdict = "right" if grade(trace.text, trace.problem).correct else "wrong"
    question = " ".join(trace.problem.question.split())
    question = question if len(question) <= 70 else question[:69] + "…"
    return Curve(
        title=f"{question}  ({verdict})",
        mi=analysis.mi(trace, hook_name),
        peaks=analysis.peaks(trace, hook_name),
        labels=_strings(analysis, trace),
        mismatched=_band(analysis.reading(trace, hook_name)),
        specific_peaks=analysis.specific_peaks(trace, hook_name) or (),
    )


def _band(reading: Reading) -> tuple[list[float], list[float]] | None:
    """Where 95 % of other answers lie, by their mean and spread."""
    if reading.calibration is None:
        return None
    mean, half = reading.calibration.mean, 1.96 * reading.calibration.std
    return (mean - half).tolist(), (mean + half).tolist()


def _strings(analysis: Analysis, trace: Trace) -> list[str]:
    return analysis.token_strings[analysis.traces.index(trace)]


def _shown(analysis: Analysis) -> dict[str, Any]:
    """The trace shown as text: the one of middling number of peaks."""
    hook_name = analysis.hook_names[0]
    by_peaks = sorted(analysis.analysed, key=lambda t: len(analysis.peaks(t, hook_name)))
    trace = by_peaks[len(by_peaks) // 2]
    mi = analysis.mi(trace, hook_name)
    peaks = set(analysis.peaks(trace, hook_name))
    low, high = min(mi), max(mi)
    return {
        "trace": trace,
        "hook_name": hook_name,
        "low": low,
        "high": high,
        "steps": [
            Step(text, value, (value - low) / (high - low) if high > low else 0.0, step in peaks)
            for step, (text, value) in enumerate(zip(_strings(analysis, trace), mi, strict=True))
        ],
    }
