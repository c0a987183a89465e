"""Traces graded, whatever engine generated them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mi_lens.evaluation.comparison import Arm
from mi_lens.evaluation.result import Result
from mi_lens.problems.grading.grader import grade
from mi_lens.traces.correctness import Labels, author_label
from mi_lens.traces.think_block import writes_lines
from mi_lens.traces.thoughts import THOUGHT_CLASSES, split_text, split_thoughts
from mi_lens.traces.trace import Trace


def grade_trace(
    trace: Trace, tokenizer, seconds: float | None = None, *, labels: Labels = "grader"
) -> Result:
    """Grades a trace that has a problem; any engine may have generated it.

    Args:
        trace: The trace.
        tokenizer: The tokenizer of its token ids; not used for text alone, whose tokens are None.
        seconds: See `Result`.
        labels: "grader" grades the answer; "author" takes the author's label. Then no answer is
            extracted, and no gold answer is needed.

    Raises:
        ValueError: If the trace has no problem, or not what `labels` needs.
    """
    problem = trace.require_problem("to grade it by")
    if labels == "author":
        answer, correct, graded_by = None, author_label(trace), "author"
    else:
        graded = grade(trace.text, problem)
        answer, correct, graded_by = graded.extracted, graded.correct, graded.method
    thoughts = None
    if trace.text_only or writes_lines(tokenizer):
        found = split_text(trace.text) if trace.text_only else split_thoughts(tokenizer, trace)
        counts = Counter(thought.thought_class for thought in found)
        thoughts = {name: counts[name] for name in THOUGHT_CLASSES}
    return Result(
        problem=problem.id,
        source=problem.source,
        level=problem.level,
        condition=trace.condition.get("name", "imported"),
        seed=trace.seed,
        trace=trace.id,
        answer=answer,
        correct=correct,
        graded_by=graded_by,
        tokens=None if trace.text_only else len(trace),
        thoughts=thoughts,
        stop_reason=trace.stop_reason,
        seconds=seconds,
        forward_passes=None if trace.text_only else passes_of(trace),
    )


def passes_of(trace: Trace) -> float:
    """What a trace cost beyond its prompt, as `Result.forward_passes`."""
    return len(trace) + sum((event.get("passes", 0.0) for event in trace.events), 0.0)


def arm_of_traces(
    traces: Sequence[Trace],
    tokenizer,
    setting: Mapping[str, Any],
    *,
    labels: Labels = "grader",
) -> Arm:
    """Grades traces that were generated elsewhere, to compare them with those of an evaluation.

    Args:
        traces: Traces with problems, one per problem and seed. They are imported or come from
            another engine (`mi_lens.load_engine`), whose name is added to the setting.
        tokenizer: The tokenizer of the traces' token ids; None for text alone.
        setting: Other settings that may change a result, such as dtype and device; see `Arm`.
        labels: See `grade_trace`.

    Raises:
        ValueError: If there are no traces, or they come from several engines, models or conditions.
    """

    def origin(trace: Trace) -> tuple[str, ...]:
        names = (trace.condition.get(key, "imported") for key in ("name", "engine"))
        return *names, trace.model, trace.condition.get("hooks", "")

    origins = set(map(origin, traces))
    if len(origins) != 1:
        raise ValueError(
            f"traces of {sorted(origins)}: expected one condition of one engine and one model, "
            "under the same hooks"
        )
    ((name, engine, model, _),) = origins
    shared = ("max_new_tokens", "style", "stop", "hooks")
    known = {key: value for key, value in traces[0].condition.items() if key in shared}
    results = tuple(grade_trace(trace, tokenizer, labels=labels) for trace in traces)
    return Arm(name, results, {"engine": engine, "model": model, **known, **setting})
