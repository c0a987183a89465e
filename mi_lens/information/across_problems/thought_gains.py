"""How many bits each thought gains: how much likelier it makes the gold answer for the model.

The method follows Ton et al. (arXiv 2411.11984), who train a second model to predict the answer
from the thoughts so far. Here the model itself is asked. So only the bits that the model can use
under this way of asking count: if the model does not answer when it is cut short, thoughts gain
nothing, whatever they hold. A single value is no mutual information. Only the mean over problems is
a (cross-)entropy.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from mi_lens.common.progress import tracked
from mi_lens.common.statistics import Estimate, estimate_mean
from mi_lens.information.per_trace.forced_answers import (
    CLOSING,
    ForcedAnswer,
    Question,
    ask_at_cuts,
)
from mi_lens.models.model import Model
from mi_lens.traces.thoughts import SEAL, THOUGHT_CLASSES, Thought, ThoughtClass, ThoughtRule
from mi_lens.traces.thoughts import split_thoughts as split
from mi_lens.traces.trace import Trace


@dataclass(frozen=True)
class ThoughtGains:
    """The gold answer's bits after every thought of a trace.

    The trace is cut after every thought, and the model is asked for the answer.

    Attributes:
        trace: The trace's id.
        problem: Key of the trace's problem (`Problem.key`).
        thoughts: The trace's thoughts, in order.
        cuts: The number of generated tokens before each question: first none, then all before the
            boundary that opens the first thought, then all up to the end of each thought.
        bits: At each cut, -log2 of the probability of the gold answer. It is 0 if the answer is
            certain.
    """

    trace: str
    problem: str
    thoughts: tuple[Thought, ...]
    cuts: tuple[int, ...]
    bits: tuple[float, ...]

    @property
    def gains(self) -> tuple[float, ...]:
        """The bits by which each thought makes the gold answer more likely."""
        return tuple(before - after for before, after in pairwise(self.bits[1:]))


def thought_gains(
    model: Model,
    traces: Sequence[Trace],
    *,
    asking: str | None = None,
    closing: str = CLOSING,
    rule: ThoughtRule = SEAL,
    progress: bool = False,
) -> list[ThoughtGains]:
    """Asks the model for the gold answer after every thought of each trace.

    A cut leaves out the boundary, so `asking` follows the last word of a thought, as "</think>"
    does. Some tokenizers write a full stop and the blank line as one token; then the full stop is
    left out too. The probability is that of the answer's text, as the tokenizer writes it, followed
    by `closing` (`mi_lens.information.per_trace.forced_answers` says how both ends of the text
    count). `answer_belief` also tells ranks, the answer that the trace gives, and what the model
    would say.

    Args:
        model: The model, with its tokenizer.
        traces: The traces, with their problems. Traces without thoughts are skipped.
        asking: The text between a cut and the answer. It should be the text with which the model
            itself ends. To check this, look at the last cut of correct traces: almost no bits
            should be left. None leaves the think block as models of the tokenizer's kind do, such
            as by "</think>", and says "The final answer is", with an open box.
        closing: The text that ends the answer.
        rule: The rule that tells the classes of thoughts apart.
        progress: Whether to show the progress on stderr (`mi_lens.generate`).

    Raises:
        ValueError: If a trace has no gold answer, or if the trace and the question do not fit the
            model's context.
    """
    gains = []
    for trace in tracked(traces, "ask", "trace", progress):
        if trace.problem is None or not trace.problem.answer:
            raise ValueError(f"trace {trace.id} has no gold answer to ask for; leave the trace out")
        thoughts = split(model.tokenizer, trace, rule)
        if thoughts:
            cuts = (0, thoughts[0].start - 1, *(thought.stop for thought in thoughts))
            bits = answer_bits(model, trace, cuts, asking=asking, closing=closing)
            key = trace.problem.key
            gains.append(ThoughtGains(trace.id, key, tuple(thoughts), cuts, bits))
    return gains


@torch.inference_mode()
def answer_bits(
    model: Model,
    trace: Trace,
    cuts: Sequence[int],
    *,
    asking: str | None = None,
    closing: str = CLOSING,
) -> tuple[float, ...]:
    """-log2 P(gold answer) when a trace is cut, one value per cut.

    Args:
        model: The model, with its tokenizer.
        trace: The trace, with its problem.
        cuts: For each cut, the number of generated tokens to keep.
        asking: See `thought_gains`.
        closing: See `thought_gains`.

    Raises:
        ValueError: If a cut lies outside the trace, if the text does not fit the model's context,
            if no token begins with `closing`, or if the trace has no problem.
    """
    question = Question.of(model, asking, closing)
    gold = trace.require_problem("whose answer the model could be asked for").answer
    answer = ForcedAnswer.of(question, gold)
    distinct, of_cuts = [], []
    for cut, asked in ask_at_cuts(model, trace, cuts, question, len(answer.path)):
        distinct.append(cut)
        of_cuts.append(asked.belief(answer)[0])
    bits = dict(zip(distinct, torch.stack(of_cuts).tolist(), strict=True))
    return tuple(bits[cut] for cut in cuts)


@dataclass(frozen=True)
class ClassGains:
    """What thoughts of one class gain: means over a problem's thoughts, then over problems.

    Attributes:
        thoughts: Number of thoughts.
        bits: Bits gained per thought. A large value may be without consequence: if the model is
            sure of a wrong answer, a change of the gold answer's probability from 2^-60 to 2^-50
            counts as ten bits, but no sample would ever show it.
        probability: Gain in the gold answer's probability per thought. It counts such a change as
            nothing.
        loss: Share of thoughts that make the gold answer less likely.
    """

    thoughts: int
    bits: Estimate
    probability: Estimate
    loss: Estimate


def gains_by_class(traces: Sequence[ThoughtGains]) -> dict[ThoughtClass, ClassGains]:
    """The bits that each class of thoughts gains, averaged over problems.

    Note where in a trace the thoughts of a class stand: a check cannot gain anything if no doubt is
    left.
    """
    gains: dict[ThoughtClass, dict[str, list[tuple[float, float]]]] = {
        name: defaultdict(list) for name in THOUGHT_CLASSES
    }
    for trace in traces:
        steps = pairwise(trace.bits[1:])
        for thought, (before, after) in zip(trace.thoughts, steps, strict=True):
            gain = before - after, 2**-after - 2**-before
            gains[thought.thought_class][trace.problem].append(gain)
    return {name: _class_gains(list(by_problem.values())) for name, by_problem in gains.items()}


def _class_gains(problems: Sequence[Sequence[tuple[float, float]]]) -> ClassGains:
    means = [
        (*np.mean(gains, axis=0).tolist(), float(np.mean([bits < 0 for bits, _ in gains])))
        for gains in problems
    ]
    bits, probability, loss = (estimate_mean([mean[i] for mean in means]) for i in range(3))
    return ClassGains(sum(map(len, problems)), bits, probability, loss)
