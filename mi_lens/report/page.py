"""Writes the report: one HTML file with runs, their figures, its style and its script."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mi_lens.common.html import one_line
from mi_lens.evaluation.evaluate import Evaluation
from mi_lens.information.per_trace.control_summary import MismatchSummary
from mi_lens.information.per_trace.controls import LEVEL, others_needed
from mi_lens.report.conclusion import conclusions
from mi_lens.report.figures import Image, comparison_image, run_images, sweep_images
from mi_lens.report.loading import Run, read_runs
from mi_lens.report.paired_tables import comparison_table, parts_table, problems_table
from mi_lens.report.palette import SHADES
from mi_lens.report.rendering import embedded, rendered, written_page
from mi_lens.report.tables import (
    Table,
    correlates_table,
    endings_table,
    findings_table,
    peaks_table,
    remaining_table,
    treatments_table,
    words_table,
)
from mi_lens.report.traces import thinking_words, trace_data
from mi_lens.report.unchanged import side_by_side, unchanged_problems
from mi_lens.runs.analysis import Analysis
from mi_lens.traces.trace import Trace
from mi_lens.traces.vocabulary import SCALING_WORDS

WORDS = 15  # Rows of a table of words.
SCRIPTS = ("tables.js", "map.js", "report.js", "side_by_side.js")
STYLES = ("report.css", "map.css")


@dataclass(frozen=True)
class Panel:
    """The findings at one hook name, or of one evaluation: text and tables."""

    title: str
    text: str
    tables: list[Table]


@dataclass(frozen=True)
class Section:
    """One run on the page, with its images and panels."""

    run: Run
    images: list[Image]
    panels: list[Panel]


def write_report(
    folders: Sequence[str | Path],
    page: str | Path,
    figures: str | Path | None = None,
    *,
    traces: int = 20,
) -> Path:
    """Writes one HTML page of one or more runs; analyses are compared side by side.

    The page needs no network and no server, and no model is loaded to make it. An unfinished run
    is shown as far as it has got.

    Args:
        folders: Run folders that `generate`, `analyze`, `evaluate` or `sweep` wrote; nothing in
            them is changed.
        page: The file to write.
        figures: Folder to save the figures in, as PNG and SVG with their numbers as JSON; None
            keeps the figures on the page only.
        traces: How many traces of each run the page shows, from the first one on.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: If a folder holds no such run, or a run's tokenizer no longer exists.
        ValueError: If there are no folders, another version of mi_lens wrote a run, or traces is
            negative.
    """
    if traces < 0:
        raise ValueError(f"traces={traces}: expected a number of traces per run, 0 or more")
    runs = read_runs(folders)
    text = _render(runs, None if figures is None else Path(figures), traces)
    return written_page(text, page)


def _render(runs: Sequence[Run], figures: Path | None, traces: int) -> str:
    analysed = [run for run in runs if run.analysis is not None and run.analysis.analysed]
    shown = [(run, trace) for run in runs for trace in run.traces[:traces]]
    names = _names([trace.id for _, trace in shown])
    links: dict[str, dict[str, str]] = {run.name: {} for run in runs}
    for (run, trace), name in zip(shown, names, strict=True):
        links[run.name][trace.id] = f"#trace={name}&step=0"
    data = [_trace_data(run, trace) for run, trace in shown]
    pairs = side_by_side([trace for _, trace in shown])
    return rendered(
        "report.html.j2",
        STYLES,
        SCRIPTS,
        runs=runs,
        conclusions=conclusions(runs),
        analysed=analysed,
        findings=findings_table(analysed) if analysed else None,
        comparison=comparison_image(runs, figures),
        sections=[_section(run, figures, links[run.name]) for run in runs],
        pairs=pairs,
        traces=[embedded(of_trace) for of_trace in data],
        data=embedded(
            {
                "runs": {run.name: _run_data(run) for run in runs},
                "index": [_entry(*named) for named in zip(names, data, strict=True)],
                "pairs": pairs,
                "words": list(SCALING_WORDS),
                "shades": SHADES,
            }
        ),
        limit=traces,
    )


def _names(ids: Sequence[str]) -> list[str]:
    """A name for every trace in a link: its id, which a second trace of that id follows by ".2"."""
    counts: dict[str, int] = {}
    names = []
    for id_ in ids:
        counts[id_] = counts.get(id_, 0) + 1
        names.append(id_ if counts[id_] == 1 else f"{id_}.{counts[id_]}")
    return names


def _run_data(run: Run) -> dict[str, Any]:
    return {
        "words": thinking_words(run.analysis),
        "site": run.settings.get("site"),
    }


def _trace_data(run: Run, trace: Trace) -> dict[str, Any]:
    effects = run.effects.get(trace.id, ())
    return {
        "run": run.name,
        **trace_data(trace, run.tokenizer, run.analysis, run.verdicts, effects),
    }


def _entry(name: str, data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "run": data["run"],
        "question": one_line(data["question"], 60),
        "condition": data["condition"],
        "correct": data["correct"],
        "steps": len(data["tokens"]),
    }


def _section(run: Run, figures: Path | None, links: Mapping[str, str]) -> Section:
    if run.analysis is not None:
        if not run.analysis.analysed:
            return Section(run, [], [])
        panels = [_layer_panel(run.analysis, name, links) for name in run.analysis.hook_names]
        return Section(run, run_images(run.name, run.analysis, figures), panels)
    if run.evaluation is not None:
        images = sweep_images(run.name, run.evaluation, run.points, figures)
        return Section(run, images, [_evaluation_panel(run, run.evaluation, links)])
    return Section(run, [], [])


def _layer_panel(analysis: Analysis, hook_name: str, links: Mapping[str, str]) -> Panel:
    controls = analysis.controls(hook_name)
    tables = [
        endings_table(analysis.endings(hook_name), analysis.config.ending.replace("_", " ")),
        treatments_table(controls),
        correlates_table(controls),
        remaining_table(controls),
    ]
    if hook_name in analysis.tokens:
        tables.insert(0, words_table(analysis.tokens[hook_name], WORDS))
    mismatch = controls.mismatch
    if mismatch is None:
        text = "Fewer than two other gold answers: MI cannot be compared with chance here."
    else:
        specific = mismatch.specific
        interval = (
            ""
            if specific.low is None or specific.high is None
            else f" (95 % interval {specific.low:.2f} to {specific.high:.2f})"
        )
        text = (
            f"The mean MI is {controls.mi:.4f} with a trace's own gold answer and "
            f"{mismatch.mi:.4f} with the answers of {mismatch.others} other problems. The specific "
            f"part is {specific.mean:.2f}{interval} standard deviations of the other answers. "
            f"There are {controls.peaks:.1f} raw peaks per trace. {_specific_peaks(mismatch)}"
        )
    return Panel(hook_name, text, [*tables, peaks_table(analysis, hook_name, links)])


def _specific_peaks(mismatch: MismatchSummary) -> str:
    if mismatch.peaks is None:
        return (
            f"How many specific peaks there are cannot be known from {mismatch.others} other "
            f"answers: a peak beyond chance (p of at most {LEVEL:g}) takes {others_needed()}."
        )
    found = (
        f"There are {mismatch.peaks:.2f} specific peaks per trace, of which {mismatch.shared:.2f} "
        "are also raw peaks."
    )
    if mismatch.excess is None:
        return found
    return (
        f"{found} Another problem's answer in the place of the gold one has {mismatch.chance:.2f} "
        f"at the same states, so {mismatch.excess.in_form('.2f')} are beyond chance."
    )


def _evaluation_panel(run: Run, evaluation: Evaluation, links: Mapping[str, str]) -> Panel:
    comparisons = evaluation.comparisons()
    same = unchanged_problems(evaluation, run.traces)
    tables = [comparison_table(evaluation, comparisons, same)]
    if comparisons:
        tables.append(parts_table(comparisons))
    settings = sorted({name for comparison in comparisons for name in comparison.settings_differ})
    warning = f"Settings differ: {'; '.join(settings)}." if settings else ""
    return Panel("", warning, [*tables, problems_table(evaluation, same, links)])
