"""Bits of the answer at thinking tokens, beside several draws of words as frequent and as late."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

import mi_lens
from experiments.study import THINKING_WORDS
from mi_lens.common.statistics import Estimate, estimate_crossed, estimate_mean
from mi_lens.information.across_problems.answer_parts import AlignedInformation, Part


@dataclass(frozen=True)
class AtWords:
    """Bits of a part of the answer at the first thinking token, and at the first ordinary word.

    Attributes:
        thinking: Bits at thinking tokens.
        ordinary: Bits at ordinary words, which are another set in every draw.
        more: `thinking` less `ordinary`, over problems and draws at random.
        by_draw: Bits at ordinary words, draw by draw.
    """

    thinking: Estimate
    ordinary: Estimate
    more: Estimate
    by_draw: tuple[Estimate, ...]


def thinking_and_ordinary(
    tokenizer,
    states: Sequence[Tensor],
    traces: Sequence[mi_lens.Trace],
    words: Sequence[str],
    part: Part,
    *,
    least: float,
    draws: int,
    seed: int,
) -> AtWords | None:
    """Bits at the first thinking token of every trace, and at several draws of ordinary words.

    Args:
        tokenizer: The traces' tokenizer.
        states: The states of every trace at a hook name, each of shape (step, d).
        traces: Traces with their problems, one per problem.
        words: The thinking tokens.
        part: The part of the answer that the bits are of.
        least: Smallest share of traces that must have a word.
        draws: Number of draws of ordinary words, 2 or more.
        seed: Seed of the draws and of the probe's folds.

    Returns:
        The bits; None where too few traces have thinking tokens or the words of a draw.
    """
    thinking = mi_lens.TokenSet.of(tokenizer, words).ids
    # Later steps hold more of the answer, so the words are matched in place too. A set with another
    # thinking word is no control.
    controls = mi_lens.matched_controls(
        tokenizer, traces, words, by="position", draws=10 * draws, seed=seed
    )
    other = {word.casefold() for word in THINKING_WORDS}
    ordinary = [control.words for control in controls if not other & set(control.words)][:draws]
    sets = [thinking] + [mi_lens.TokenSet.of(tokenizer, drawn).ids for drawn in ordinary]
    steps = [mi_lens.at_token(traces, tokens, 1) for tokens in sets]
    rare = any(len(step.present) < max(least * len(traces), 5) for step in steps)
    if rare or len(ordinary) < 2:
        return None
    answers = [trace.problem.answer for trace in traces if trace.problem is not None]
    labels = mi_lens.answer_parts(answers, part)
    found = [mi_lens.information_at(step, states, labels, shuffles=0, seed=seed) for step in steps]
    at_thinking, *by_draw = np.array([of_all_problems(step, len(traces)) for step in found])
    return AtWords(
        estimate_mean(at_thinking),
        estimate_crossed(np.array(by_draw)),
        estimate_crossed(at_thinking - np.array(by_draw)),
        tuple(estimate_mean(list(step.usable.gains)) for step in found[1:]),
    )


def of_all_problems(information: AlignedInformation, problems: int) -> np.ndarray:
    """A value for every problem, with the mean and the standard error of the gains at a step.

    Only some problems have the step, and not the same at every step. The others count with the
    mean, and what a problem adds is scaled to its share of the mean: the linearised mean.
    """
    gains, present = np.array(information.usable.gains), list(information.at.present)
    values = np.full(problems, gains.mean())
    values[present] += (gains - gains.mean()) * problems / len(present)
    return values
