r"""Aligned steps: one step per trace, chosen by the same rule in every trace.

The state of step t *emits* token t: the model has read the tokens before t, but not token t itself.
So if a token is emitted at step t, offset 0 is the step that emits the token, offset 1 is the step
at which the model has just read the token, and offset -1 is the step before it is emitted. A trace
without such a step is left out, and the result lists it as None.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import log

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mi_lens.problems.answers import boxed_answer
from mi_lens.traces.matched_words import count_tokens, draw_matches, is_ordinary
from mi_lens.traces.think_block import boundary_steps
from mi_lens.traces.trace import Trace
from mi_lens.traces.vocabulary import vocabulary

BOXED = "\\boxed{"


@dataclass(frozen=True)
class AlignedSteps:
    """One step per trace.

    Attributes:
        name: The rule, such as "thinking token 1 +1".
        steps: The step of every trace, or None if the trace has no such step.
    """

    name: str
    steps: tuple[int | None, ...]

    @property
    def present(self) -> tuple[int, ...]:
        """The indices of the traces that have the step."""
        return tuple(i for i, step in enumerate(self.steps) if step is not None)

    def states(self, activations: Sequence[Float[Tensor, "_ d"]]) -> Float[Tensor, "present d"]:
        """The states at the step, one row for every trace that has it.

        Args:
            activations: The states of every trace at one hook name, each of shape (step, d).

        Raises:
            ValueError: If the number of tensors is not the number of traces, if a tensor ends
                before the trace's step, or if no trace has the step.
        """
        if not self.present:
            raise ValueError(f"{self.name}: none of {len(self.steps)} traces has this step")
        return torch.stack([activations[i][step] for i, step in self._pairs(activations)])

    def values(self, trajectories: Sequence[Sequence[float]]) -> Float[np.ndarray, "present"]:
        """The values at the step, such as the MI, one for every trace that has it.

        Args:
            trajectories: The values of every trace, one value per step.

        Raises:
            ValueError: If the number of trajectories is not the number of traces, or if a
                trajectory ends before the trace's step.
        """
        return np.array([float(trajectories[i][step]) for i, step in self._pairs(trajectories)])

    def _pairs(self, sequences: Sequence) -> list[tuple[int, int]]:
        """The index and the step of each trace that has the step."""
        if len(sequences) != len(self.steps):
            raise ValueError(
                f"{self.name}: {len(sequences)} sequences for {len(self.steps)} traces; expected "
                "one sequence per trace, also for the traces without the step"
            )
        pairs = [(i, step) for i, step in enumerate(self.steps) if step is not None]
        for i, step in pairs:
            if step >= len(sequences[i]):
                raise ValueError(
                    f"{self.name}: step {step} of trace {i}, which has {len(sequences[i])} values; "
                    "pass the values of the traces that were aligned"
                )
        return pairs


def at_fraction(traces: Sequence[Trace], fraction: float) -> AlignedSteps:
    """The step at a fraction of each trace. Fraction 0 is the first step, 1 is the last step.

    Raises:
        ValueError: If the fraction is outside 0 to 1.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction={fraction}: expected 0 (first step) to 1 (last step)")
    steps = [round(fraction * (len(trace) - 1)) if len(trace) else None for trace in traces]
    return AlignedSteps(f"fraction {fraction:g}", tuple(steps))


def at_boundary(tokenizer, traces: Sequence[Trace], number: int, offset: int = 0) -> AlignedSteps:
    r"""The step of each trace's number-th boundary, a token that completes a blank line.

    Args:
        tokenizer: The traces' tokenizer.
        traces: The traces.
        number: Number of the boundary in its trace, counted from 1.
        offset: Steps after the step that emits the boundary. At offset 1 the model has read the
            boundary and opens the next thought.

    Raises:
        ValueError: If number is below 1.
    """
    boundaries = [boundary_steps(tokenizer, trace.require_steps().token_ids) for trace in traces]
    return _at_occurrence("boundary", traces, boundaries, number, offset)


def at_token(
    traces: Sequence[Trace],
    token_ids: Collection[int],
    number: int,
    offset: int = 0,
    name: str = "thinking token",
) -> AlignedSteps:
    """The step of the number-th token of a set in each trace.

    Args:
        traces: The traces.
        token_ids: The set of tokens: `TokenSet.ids`, or the values of `matched_tokens` for a
            control.
        number: Number of the token among the trace's tokens of the set, counted from 1.
        offset: Steps after the step that emits the token. At offset 1 the model has just read the
            token.
        name: Name of a token of the set.

    Raises:
        ValueError: If number is below 1, or no trace emits any of the tokens.
    """
    wanted = frozenset(token_ids)
    occurrences = [
        [step for step, token in enumerate(trace.require_steps().token_ids) if token in wanted]
        for trace in traces
    ]
    if not any(occurrences):
        raise ValueError(
            f"none of {len(traces)} traces emits a {name} (token ids {sorted(wanted)[:8]}); make "
            "the set with the tokenizer of these traces"
        )
    return _at_occurrence(name, traces, occurrences, number, offset)


def _at_occurrence(
    name: str,
    traces: Sequence[Trace],
    occurrences: Sequence[Sequence[int]],
    number: int,
    offset: int,
) -> AlignedSteps:
    if number < 1:
        raise ValueError(f"number={number}: expected 1 for the first {name}, 2 for the second, ...")
    steps = [
        places[number - 1] + offset if len(places) >= number else None for places in occurrences
    ]
    inside = [
        step if step is not None and 0 <= step < len(trace) else None
        for step, trace in zip(steps, traces, strict=True)
    ]
    return AlignedSteps(
        f"{name} {number} {offset:+d}" if offset else f"{name} {number}", tuple(inside)
    )


def at_answer(tokenizer, traces: Sequence[Trace], offset: int = 0) -> AlignedSteps:
    r"""The last step before the answer, which emits the first token of the boxed answer's content.

    For "\boxed{79}" this is the step that emits "7": the model has read "\boxed{" and nothing of
    the answer. A trace without a box, or whose last box is empty or never closes, has no such step.

    Args:
        tokenizer: The traces' tokenizer.
        traces: The traces.
        offset: Steps after that step, or before it if negative.
    """
    steps = []
    for trace in traces:
        strings = trace.token_strings(tokenizer)
        text = "".join(strings)
        if not boxed_answer(text):
            steps.append(None)
            continue
        content = text.rfind(BOXED) + len(BOXED)
        content += len(text[content:]) - len(text[content:].lstrip())
        ends = accumulate(map(len, strings))
        step = next(i for i, end in enumerate(ends) if end > content) + offset
        steps.append(step if 0 <= step < len(trace) else None)
    return AlignedSteps(f"answer {offset:+d}" if offset else "answer", tuple(steps))


def matched_tokens(
    tokenizer, traces: Sequence[Trace], token_ids: Collection[int], *, seed: int = 0
) -> dict[int, int]:
    """For each token of a set, an ordinary token that the traces emit about as often.

    The ordinary tokens are a control for the steps before, at and after a thinking token: the same
    offsets are used around tokens of similar frequency. Ordinary tokens contain a letter (a digit
    would be part of a result) and are not in the set. The tokens of the set are matched from the
    most to the least frequent. The match is drawn from the five ordinary tokens nearest in log
    count. No ordinary token is drawn twice.

    Args:
        tokenizer: The traces' tokenizer.
        traces: The traces over which tokens are counted.
        token_ids: The set, such as `TokenSet.ids`.
        seed: Seed of the draw.

    Returns:
        A mapping from token id to the id of its ordinary counterpart. Tokens that the traces never
        emit are left out.

    Raises:
        ValueError: If no token of the set is emitted, or if no ordinary token within a factor of
            two of a token's count is left.
    """
    counts, wanted = count_tokens(traces), frozenset(token_ids)
    emitted = counts.keys() & wanted
    if not emitted:
        raise ValueError(f"none of {len(traces)} traces emits a token of the set to match")
    strings = vocabulary(tokenizer)
    ordinary = [
        token
        for token in counts.keys() - wanted
        # A model may have more token ids than its tokenizer has strings.
        if token < len(strings) and is_ordinary(strings[token], letters=1, beside="anything")
    ]
    rng = np.random.default_rng(seed)
    matches = draw_matches(emitted, ordinary, counts, rng, log=log, within_factor_of_two=True)
    if unmatched := emitted - matches.keys():
        token = min(unmatched, key=lambda t: (-counts[t], t))
        raise ValueError(
            f"token {token} ({tokenizer.decode([token])!r}) is emitted {counts[token]} times, "
            "and no ordinary token is left that is emitted half to twice as often; give more "
            "traces, or leave the token out of the set"
        )
    return matches
