"""The page's tables of analyses; a cell holds its text and the number that it is sorted by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from mi_lens.common.html import DASH
from mi_lens.common.statistics import Estimate
from mi_lens.information.per_trace.answer_endings import EndingSummary
from mi_lens.information.per_trace.control_summary import ControlSummary
from mi_lens.information.per_trace.thinking_tokens import ThinkingTokens
from mi_lens.report.findings import summary
from mi_lens.report.loading import Run
from mi_lens.runs.analysis import Analysis


@dataclass(frozen=True)
class Cell:
    """A cell's text, and the number to sort it by; without a number, it is sorted by the text.

    A link is an address on the page, such as "#trace=0123456789abcdef&step=5".
    """

    text: str
    key: float | None = None
    empty: bool = False
    link: str = ""


@dataclass(frozen=True)
class Table:
    """A table that can be sorted.

    Attributes:
        caption: What it shows.
        columns: The headings; the first column names the row.
        rows: One cell per column in each row.
        note: The note below it.
        tall: Whether it scrolls in a box of its own.
        folded: Rows that changed nothing; one line stands for them until it is unfolded.
        folded_as: What these rows are, after "Show": "3 problems with the same tokens".
    """

    caption: str
    columns: tuple[str, ...]
    rows: list[list[Cell]] = field(default_factory=list)
    note: str = ""
    tall: bool = False
    folded: list[list[Cell]] = field(default_factory=list)
    folded_as: str = ""

    @property
    def numeric(self) -> list[bool]:
        """Which columns hold numbers."""
        rows = [*self.rows, *self.folded]
        return [any(row[i].key is not None for row in rows) for i in range(len(self.columns))]


def text(value: str | None) -> Cell:
    """A cell that is sorted by its text; None is a dash, and sorted last."""
    return Cell(DASH, empty=True) if value is None else Cell(value)


def number(value: float | int | None, digits: int = 2, *, scale: float = 1.0) -> Cell:
    """A number, scaled and with the given decimals; None is a dash, and sorted last."""
    if value is None:
        return Cell(DASH, empty=True)
    shown = round(scale * value, digits) + 0.0  # no minus zero
    return Cell(f"{shown:.{digits}f}", float(f"{value:.4g}"))


def p_value(value: float) -> Cell:
    """A p-value."""
    return Cell(f"{value:.2g}", float(f"{value:.4g}"))


def unless_unknown(cell: Cell, reason: str) -> Cell:
    """The cell, or the reason why its number is unknown; sorted last."""
    return Cell(reason, empty=True) if reason else cell


def estimate(value: Estimate, form: str = ".2f", *, scale: float = 1.0) -> Cell:
    """A mean with its interval, sorted by the mean."""
    if value.mean is None:
        return Cell(DASH, empty=True)
    return Cell(value.in_form(form, scale), float(f"{value.mean:.4g}"))


def _table(
    caption: str, rows: Sequence[dict[str, Cell]], note: str = "", *, tall: bool = False
) -> Table:
    """A table of at least one row; each row names its columns."""
    return Table(caption, tuple(rows[0]), [list(row.values()) for row in rows], note, tall)


def findings_table(runs: Sequence[Run]) -> Table:
    """The findings, one row per analysis and hook name."""
    rows = []
    for run in runs:
        if run.analysis is None:
            continue
        for hook_name in run.analysis.hook_names:
            m = summary(run.analysis, hook_name)
            rows.append(
                {
                    "model": text(run.name),
                    "hook name": text(hook_name),
                    "traces": number(m["analysed"], 0),
                    "accuracy": number(m["accuracy"]),
                    "finished": number(m["finished"]),
                    "tokens": number(m["tokens"], 0),
                    "mean MI": number(m["mi"], 4),
                    "other answers": number(m["mismatched"], 4),
                    "peaks": number(m["peaks"], 1),
                    "specific": unless_unknown(number(m["specific_peaks"]), m["unknown"]),
                    "by chance": number(m["chance_peaks"]),
                    "peak ratio": number(m["ratio"], 4),
                    "interval": number(m["interval"], 1),
                    "AOM": number(m["aom"]),
                }
            )
    return _table(
        "Findings by model and layer",
        rows,
        "Means over traces. Other answers: MI of the same states with the gold answers of other "
        "problems. Specific: peaks of the specific part that pass a test over the whole trace "
        "(p ≤ .05); by chance: as many such peaks has another problem's answer in the place of the "
        "gold one. Interval: steps between neighbouring peaks. AOM: distance of peaks from the "
        "median, in interquartile ranges.",
    )


def words_table(table: ThinkingTokens, words: int) -> Table:
    """The most frequent words at peaks."""
    rows = [
        [
            text(row.word),
            text(" ".join(v.replace("\n", "↵").replace(" ", "␣") for v in row.variants)),
            number(row.peak_count, 0),
            number(row.step_count, 0),
            number(row.peak_rate, 4),
            number(row.step_rate, 4),
            estimate(Estimate(row.lift, row.lift_low, row.lift_high, table.traces)),
            text("yes" if row.lifted else "no"),
        ]
        for row in table.rows[:words]
    ]
    return Table(
        "Words at peaks, with their lift",
        (
            "word",
            "written",
            "at peaks",
            "at steps",
            "share of peaks",
            "share of steps",
            f"lift ({100 * table.confidence:g} % interval)",
            "above 1",
        ),
        rows,
        f"{table.filtered} of {table.peaks} peaks decode to punctuation, single characters or "
        "special tokens and are left out. Lift: share of peaks over share of steps; its interval "
        f"comes from resampling traces. {len(rows)} of {len(table.rows)} words are shown.",
    )


def treatments_table(controls: ControlSummary) -> Table:
    """How the trajectory changes under other treatments of the states or the answer."""
    rows = [[text("as published"), number(controls.mi, 4), number(1.0), number(1.0)]]
    for name, v in controls.variants.items():
        label = f"{name} ({controls.massive:.1f} coordinates)" if "massive" in name else name
        rows.append([text(label), number(v.mi, 4), number(v.spearman), number(v.overlap)])
    return Table(
        "Controls: the trajectory under other treatments",
        ("treatment", "mean MI", "rank correlation", "peaks shared"),
        rows,
        "Rank correlation: with the trajectory as published, over the steps of a trace. Peaks "
        "shared: peaks that both trajectories have, as a share of the peaks that either has.",
    )


def correlates_table(controls: ControlSummary) -> Table:
    """What MI correlates with along a trace."""
    rows = []
    for name, raw in controls.correlates.items():
        row = [text(name), estimate(raw)]
        if controls.mismatch is not None:
            row.append(estimate(controls.mismatch.correlates[name]))
        rows.append(row)
    specific = ("specific part (95 % interval)",) if controls.mismatch is not None else ()
    return Table(
        "Controls: what MI correlates with",
        ("correlate", "raw MI (95 % interval)", *specific),
        rows,
        "Mean over traces of the rank correlation along the trace; entropy and surprisal are those "
        "of the emitted token.",
    )


def remaining_table(controls: ControlSummary) -> Table:
    """What of MI remains when each other explanation is held."""
    rows = [
        [text(name), *(estimate(e) for e in (left.variance, left.chance, left.peaks))]
        for name, left in controls.remaining.items()
    ]
    return Table(
        "Controls: what of MI remains when one thing is held",
        ("held", "variance left (95 % interval)", "left by chance", "peaks that stay"),
        rows,
        "Of each trace, MI less its best monotone function of what is held. Variance left: its "
        "share of MI's variance along the trace; left by chance: the same after what is held was "
        "shuffled. Peaks that stay: those that are also peaks of what is left.",
    )


def endings_table(endings: Mapping[str, EndingSummary], own: str) -> Table:
    """MI and its peaks under every ending of the answer's text."""
    rows = [
        [
            text(f"{name} (this run's)" if name == own else name),
            number(row.traces, 0),
            number(row.mi, 4),
            estimate(row.ratio, ".1f", scale=100.0),
            estimate(row.overlap),
            estimate(row.thinking, ".1f", scale=100.0),
            estimate(row.lift),
        ]
        for name, row in ((name.replace("_", " "), row) for name, row in endings.items())
    ]
    return Table(
        "Controls: the same answer, another ending of its text",
        (
            "ending",
            "traces",
            "mean MI",
            "% of steps that are peaks",
            "peaks shared",
            "% of peaks at thinking words",
            "lift of thinking words",
        ),
        rows,
        "The answer state is about what follows the answer's text. If peaks are not shared between "
        "endings, they mark steps like that ending and not the answer. Peaks shared: with this "
        "run's ending, as a share of the peaks that either has. Lift: share of thinking words at "
        "peaks over their share of all steps. Intervals, 95 %, are over traces.",
    )


def peaks_table(analysis: Analysis, hook_name: str, links: Mapping[str, str]) -> Table:
    """Peak statistics by trace; a trace that is on the page is linked, by its id."""
    rows = []
    places = {trace.id: i for i, trace in enumerate(analysis.traces)}
    for trace in analysis.analysed:
        s = analysis.statistics(trace, hook_name)
        specific = analysis.specific_peaks(trace, hook_name)
        graded = analysis.grades[places[trace.id]]
        rows.append(
            {
                "trace": replace(number(places[trace.id] + 1, 0), link=links.get(trace.id, "")),
                "problem": text(trace.problem.id if trace.problem else None),
                "answer": text(None if graded is None else "right" if graded.correct else "wrong"),
                "steps": number(s.steps, 0),
                "mean MI": number(s.mean, 4),
                "std": number(s.std, 4),
                "peaks": number(s.count, 0),
                "specific": number(None if specific is None else len(specific), 0),
                "ratio": number(s.ratio, 4),
                "interval": number(s.interval_mean, 1),
                "AOM": number(s.aom),
            }
        )
    return _table("Peak statistics by trace", rows, tall=True)
