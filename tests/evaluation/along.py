"""Beliefs, rollouts and resampled thoughts of a trace that no model made."""

import numpy as np

from mi_lens.evaluation.critical_tokens import Rollouts
from mi_lens.evaluation.importance import Importance, Outcome
from mi_lens.evaluation.resample_thoughts import ResampledThought
from mi_lens.evaluation.thought_replacements import Replacement
from mi_lens.information.per_trace.belief import AnswerBelief, Belief
from mi_lens.traces.thoughts import Thought
from mi_lens.traces.trace import Trace


def a_belief(trace: Trace, final: str = "81") -> Belief:
    """A belief at five cuts that goes from the gold answer to another, at the fourth cut."""
    cuts = tuple(int(cut) for cut in np.linspace(0, len(trace), 5))
    bits = {"79": (0.1, 0.5, 1.5, 4.0, 8.0), final: (9.0, 3.0, 1.2, 0.2, 0.01)}
    first = (1, 1, 1, 1, 1)
    return Belief(
        trace=trace.id,
        problem="key",
        cuts=cuts,
        gold=AnswerBelief("79", bits["79"], (1, 1, 2, 5, 9), first),
        final=AnswerBelief(final, bits[final], (7, 1, 3, 1, 1), first),
        said=("79", "81", "79", "81", "81"),
    )


def rollouts_at(trace: Trace, step: int, kept: int = 6, forbidden: int = 2) -> Rollouts:
    """Eight continuations each, of which so many are right."""
    right = [tuple(i < count for i in range(8)) for count in (kept, forbidden)]
    return Rollouts(trace.id, "key", step, trace.token_ids[step], "a", 0.5, *right)


def resampled(trace: Trace, thought: Thought, kept: int = 6, without: int = 2) -> ResampledThought:
    """Eight continuations with the thought; eight without it, and one that says the same."""

    def outcome(right: bool) -> Outcome:
        return Outcome("79" if right else "81", right)

    same = Replacement(thought.text, 0.0, False, outcome(True), 1, False, outcome(True))
    others = [
        Replacement("else", 0.9, True, outcome(i < without), 0, True, outcome(i < without))
        for i in range(8)
    ]
    return ResampledThought(
        trace=trace.id,
        problem="key",
        thought=thought,
        threshold=0.3,
        kept=tuple(outcome(i < kept) for i in range(8)),
        replacements=(same, *others),
        importance=Importance(8, 8, 0.1, 0.1, 0.1, 0.1, (kept - without) / 8),
        importance_gone=None,
    )
