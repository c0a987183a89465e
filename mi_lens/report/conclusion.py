"""The sentence that answers the page's title, made from the numbers; it may say no, or unknown."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scipy.stats import binom

from mi_lens.common.intervals import estimate_share
from mi_lens.common.statistics import estimate_mean, holm
from mi_lens.evaluation.comparison import GAIN, Comparison
from mi_lens.evaluation.result import CAPPED
from mi_lens.information.per_trace.controls import LEVEL, others_needed
from mi_lens.report.loading import Run
from mi_lens.report.unchanged import unchanged_problems
from mi_lens.runs.analysis import Analysis

NAMED = 3  # A sentence names at most this many conditions.
UNKNOWN = "it cannot be known"


Finding = tuple[str, str]  # A verdict, such as "No change", and the numbers that it rests on.


@dataclass(frozen=True)
class Conclusion:
    """A question that the page asks of its runs, and the sentence that answers it.

    Attributes:
        question: The title.
        parts: The name of each run, its verdict, and the numbers that the verdict rests on.
    """

    question: str
    parts: list[tuple[str, str, str]]


def conclusions(runs: Sequence[Run]) -> list[Conclusion]:
    """One conclusion per kind of run on the page; the first one's question is the page's title."""
    questions: dict[str, tuple[str, Callable[[Run], Finding]]] = {
        "analyze": ("Where in its reasoning does the model come to know the answer?", _where),
        "evaluate": ("What did the conditions change?", _what_changed),
        "sweep": ("What did the conditions change?", _what_changed),
        "generate": ("What did the model write?", _what_was_written),
    }
    answers: dict[str, list[tuple[str, str, str]]] = {}
    for kind, (question, answer) in questions.items():
        parts = [(run.name, *answer(run)) for run in runs if run.kind == kind]
        if parts:
            answers.setdefault(question, []).extend(parts)
    return [Conclusion(question, parts) for question, parts in answers.items()]


def _where(run: Run) -> Finding:
    """In how many traces MI tells the gold answer from other answers, and where in them."""
    analysis = run.analysis
    if analysis is None or not analysis.analysed:
        return UNKNOWN, "no trace has been measured yet"
    traces = len(analysis.analysed)
    mismatches = [analysis.controls(name).mismatch for name in analysis.hook_names]
    others = min(0 if mismatch is None else mismatch.others for mismatch in mismatches)
    needed = others_needed()
    if others < needed:
        return UNKNOWN, (
            "chance is ruled out by the answers of other problems, which takes at least "
            f"{needed} of them, and these traces have {others or 'fewer than two'}"
        )
    first = {name: _first_specific_peaks(analysis, name) for name in analysis.hook_names}
    p_values = [float(binom.sf(len(first[n]) - 1, traces, LEVEL)) for n in first]
    adjusted = dict(zip(first, holm(p_values), strict=True))
    # The deepest layer among equals.
    best = min(reversed(analysis.hook_names), key=lambda n: (adjusted[n], -len(first[n])))
    chance = (
        f"chance alone gives at most {LEVEL * traces:.1f} such traces on average "
        f"(p = {adjusted[best]:.2g}{_over(len(first), 'layers')})"
    )
    if adjusted[best] > LEVEL:
        return "nowhere that MI can tell from chance", (
            f"at {best}, MI with the gold answer stands out from that with {others} other answers "
            f"in {len(first[best])} of {traces} traces, and {chance}"
        )
    place = estimate_mean([100 * share for share in first[best].values()]).in_form(".0f")
    return f"after {place} % of the trace, in {len(first[best])} of {traces} traces", (
        f"there MI with the gold answer first stands out from that with {others} other answers at "
        f"{best}, and {chance}"
    )


def _first_specific_peaks(analysis: Analysis, hook_name: str) -> dict[str, float]:
    """Trace id to the share of the trace that lies before its first specific peak."""
    peaks = {t.id: analysis.specific_peaks(t, hook_name) for t in analysis.analysed}
    return {t.id: steps[0] / len(t) for t in analysis.analysed if (steps := peaks[t.id])}


def _over(tests: int, what: str) -> str:
    return f", p corrected for {tests} {what}" if tests > 1 else ""


def _what_changed(run: Run) -> Finding:
    """Whether conditions changed the accuracy, by the tests of the paired table."""
    if run.evaluation is None:
        return UNKNOWN, "no problem has been answered under every condition yet"
    comparisons = run.evaluation.comparisons()
    if not comparisons:
        return UNKNOWN, f"{run.evaluation.names[0]} is the only condition"
    same = unchanged_problems(run.evaluation, run.traces)
    problems = comparisons[0].problems
    idle = [c for c in comparisons if len(same[c.name]) == c.problems]
    if len(idle) == len(comparisons):
        return "nothing", (
            f"{_named(idle)} wrote the same tokens as {idle[0].against} on all {problems} problems"
        )
    active = [c for c in comparisons if c not in idle]
    changed = [c for c in active if c.adjusted <= LEVEL]
    weak = [c for c in active if not _within_margin(c)]
    shown = sorted(changed or weak or active, key=lambda c: c.adjusted)
    parts = [_numbers(c) for c in shown[:NAMED]]
    if len(active) > len(parts):
        parts.append(f"the table has {len(active) - len(parts)} more")
    if idle:
        parts.append(f"{_named(idle)} wrote the same tokens as {idle[0].against} everywhere")
    base = run.evaluation.arm(comparisons[0].against)
    numbers = (
        f"on {problems} problems, of which {base.name} has {base.accuracy().in_form('.0f', 100.0)} "
        f"% right{_over(len(comparisons), 'conditions')}, {'; '.join(parts)}"
    )
    if changed:
        return f"{_named(changed)} changed the accuracy", numbers
    if weak:
        numbers += "; the interval does not exclude a change of five points"
        return f"{UNKNOWN} whether {_named(weak)} changed the accuracy", numbers
    return "the accuracy changed by less than five points", numbers


def _within_margin(comparison: Comparison) -> bool:
    """Whether the whole interval of the difference lies within the margin: an equivalence test."""
    low, high = comparison.difference.low, comparison.difference.high
    return low is not None and high is not None and max(-low, high) < GAIN


def _named(comparisons: Sequence[Comparison]) -> str:
    if len(comparisons) > NAMED:
        return f"{len(comparisons)} conditions"
    return " and ".join(c.name for c in comparisons)


def _numbers(comparison: Comparison) -> str:
    return (
        f"{comparison.name} changes this by {comparison.difference.in_form('+.1f', 100.0)} points "
        f"(p = {comparison.adjusted:.2g}) and the trace by {comparison.tokens.in_form('+.0f')} "
        "tokens"
    )


def _what_was_written(run: Run) -> Finding:
    traces = run.traces
    if not traces:
        return UNKNOWN, "no trace is finished yet"
    graded = [float(v.correct) for t in traces if (v := run.verdicts.get(t.id)) is not None]
    tokens = estimate_mean([float(len(trace)) for trace in traces])
    capped = sum(trace.stop_reason in CAPPED for trace in traces)
    count = f"{len(traces)} trace{'s' if len(traces) > 1 else ''}"
    written = f"{tokens.in_form('.0f')} tokens per trace, {capped} cut off"
    if not graded:
        return f"{count}, of unknown accuracy", f"none has an answer to grade it by; {written}"
    accuracy = estimate_share(graded)
    return f"{sum(graded):.0f} right answers in {len(graded)} graded traces", (
        f"{accuracy.in_form('.0f', 100.0)} %, {written}"
    )
