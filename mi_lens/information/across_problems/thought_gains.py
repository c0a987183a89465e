"""How many bits each thought gains: how much likelier it makes the gold answer for the model.

The method follows Ton et al. (arXiv 2411.11984), who train a second model to predict the answer
from the thoughts so far. Here the model itself is asked. So only the bits that the model can use
under this way of asking count: if the model does not answer when it is cut short, thoughts gain
nothing, whatever they hold. A single value is no mutual information. Only the mean over problems is
a (cross-)entropy.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_lens.common.float64 import in_float64
from mi_lens.common.progress import tracked
from mi_lens.common.statistics import Estimate, estimate_mean
from mi_lens.interventions.replay import replay_of
from mi_lens.models.backends.lookup import backend_of
from mi_lens.models.model import Model
from mi_lens.problems.think_kinds import think_kind
from mi_lens.states.segments import read_in_segments
from mi_lens.traces.thoughts import SEAL, THOUGHT_CLASSES, Thought, ThoughtClass, ThoughtRule
from mi_lens.traces.thoughts import split_thoughts as split
from mi_lens.traces.trace import Trace
from mi_lens.traces.vocabulary import vocabulary

ASKING = "The final answer is \\boxed{"  # behind the text that leaves the think block


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
    closing: str = "}",
    rule: ThoughtRule = SEAL,
    progress: bool = False,
) -> list[ThoughtGains]:
    """Asks the model for the gold answer after every thought of each trace.

    A cut leaves out the boundary, so `asking` follows the last word of a thought, as "</think>"
    does. Some tokenizers write a full stop and the blank line as one token; then the full stop is
    left out too. The probability is that of the answer's tokens, as the tokenizer writes the
    answer, followed by any token that begins with `closing`.

    The model reads each trace once. Then it goes from the last cut to the first: it crops the cache
    and reads the question and answer, which are a few tokens per cut. Therefore traces are not
    batched.

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
    closing: str = "}",
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
            or if no token begins with `closing`.
    """
    assert trace.problem is not None
    if min(cuts) < 0 or max(cuts) > len(trace):
        raise ValueError(f"cuts {list(cuts)} of trace {trace.id}: expected 0 to {len(trace)}")
    if asking is None:
        asking = think_kind(model.tokenizer).leaving + ASKING
    asked = model.tokenizer.encode(asking, add_special_tokens=False)
    answer = model.tokenizer.encode(trace.problem.answer, add_special_tokens=False)
    start = len(trace.prompt_ids)
    longest = start + max(cuts) + len(asked) + len(answer)
    if longest > model.cfg.n_ctx:
        raise ValueError(
            f"trace {trace.id} has {longest} tokens including the question and the answer, more "
            f"than the model's context {model.cfg.n_ctx}; leave the trace out"
        )
    closings = _closing_ids(model.tokenizer, closing)
    backend = backend_of(model)
    tokens = [*trace.prompt_ids, *trace.token_ids[: max(cuts)]]
    cache = read_in_segments(model, [tokens], replay=replay_of(model, trace))
    question = torch.tensor([[*asked, *answer]], device=model.cfg.device)
    wanted, ends = torch.tensor(answer), torch.tensor(closings)
    distinct = sorted(set(cuts), reverse=True)
    of_cuts = []
    for cut in distinct:
        backend.crop(cache, start + cut)
        mask = torch.ones(1, start + cut + question.shape[1], dtype=torch.long)
        logits = backend.step(model, question, mask, cache, logits_to_keep=len(answer) + 1)
        log_p = in_float64(logits[0]).log_softmax(-1)
        wanted, ends = wanted.to(log_p.device), ends.to(log_p.device)
        of_cuts.append(_bits(log_p, wanted, ends))
    bits = dict(zip(distinct, torch.stack(of_cuts).tolist(), strict=True))
    return tuple(bits[cut] for cut in cuts)


def _closing_ids(tokenizer, closing: str) -> list[int]:
    ids = [i for i, string in enumerate(vocabulary(tokenizer)) if string.startswith(closing)]
    if not closing or not ids:
        raise ValueError(f"closing={closing!r}: expected the beginning of some token, such as '}}'")
    return ids


def _bits(
    log_p: Float[Tensor, "pos d_vocab"], answer: Int[Tensor, " token"], closings: Int[Tensor, "_"]
) -> Float[Tensor, ""]:
    """-log2 of the probability of the answer and its end.

    The last position emits the end. The positions before it emit the answer's tokens.
    """
    written = log_p[:-1].gather(1, answer[:, None]).sum()
    return -(written + log_p[-1, closings].logsumexp(0)) / math.log(2)


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
