"""What an intervention left as it was: traces of the same tokens, and where two traces part."""

from collections.abc import Mapping, Sequence
from typing import Any

from mi_lens.evaluation.evaluate import Evaluation
from mi_lens.traces.trace import Trace

Unchanged = Mapping[str, set[tuple[str, str]]]  # Name of a condition to keys of problems.


def first_difference(a: Sequence[int], b: Sequence[int]) -> int | None:
    """The first step at which two traces differ; None if their token ids are the same.

    Where one trace is the beginning of the other, it is the step after the shorter one's last.
    """
    if tuple(a) == tuple(b):
        return None
    steps = zip(a, b, strict=False)
    return next((step for step, (x, y) in enumerate(steps) if x != y), min(len(a), len(b)))


def unchanged_problems(
    evaluation: Evaluation, traces: Sequence[Trace]
) -> dict[str, set[tuple[str, str]]]:
    """For every condition after the first, the problems on which it wrote the first one's tokens.

    Args:
        evaluation: Results, each with the id of its trace.
        traces: The traces. A result whose trace is not among them counts as changed.

    Returns:
        Name of a condition to keys of problems, as in `Result.problem_key`. The tokens of such a
        problem are the same under every seed.
    """
    written = {trace.id: (trace.token_ids, trace.text) for trace in traces}
    tokens = {
        (r.condition, r.problem_key, r.seed): written.get(r.trace) for r in evaluation.results
    }
    base, *others = evaluation.names
    same = {}
    for name in others:
        changed = {
            key
            for condition, key, seed in tokens
            if condition == name
            and (
                tokens[name, key, seed] is None
                or tokens[name, key, seed] != tokens.get((base, key, seed))
            )
        }
        same[name] = {key for condition, key, _ in tokens if condition == name} - changed
    return same


def side_by_side(traces: Sequence[Trace]) -> list[dict[str, Any]]:
    """Groups of traces that may differ by their condition only: one model, one prompt, one seed.

    Returns:
        For every group of at least two traces, their places among `traces` as "traces", and as
        "differ" the first different step of the i-th and the j-th of them, None if their tokens
        are the same. Traces of text alone are in no group.
    """
    groups: dict[tuple[Any, ...], dict[str, int]] = {}
    for place, trace in enumerate(traces):
        if trace.text_only:
            continue
        key = (trace.model, trace.prompt, trace.prompt_ids, trace.seed)
        groups.setdefault(key, {}).setdefault(trace.id, place)  # one trace may be in two runs
    pairs = []
    for places in (list(group.values()) for group in groups.values() if len(group) > 1):
        ids = [traces[place].token_ids for place in places]
        pairs.append(
            {"traces": places, "differ": [[first_difference(a, b) for b in ids] for a in ids]}
        )
    return pairs
