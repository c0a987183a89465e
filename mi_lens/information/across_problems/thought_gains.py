"""How much each thought adds to what a model would answer: bits of the gold answer, cut by cut.

After Ton et al. (arXiv 2411.11984), who train a second model to predict the answer from what was
thought so far. Here the model itself is asked. The bits are those that it can use, under one way of
asking: where it does not answer when cut short, thoughts gain nothing, whatever they hold. Single
values are no mutual information; only their mean over problems is a (cross-)entropy.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from mi_lens.common.statistics import Estimate, estimate_mean
from mi_lens.models.backends.lookup import backend_of
from mi_lens.states.segments import read_in_segments
from mi_lens.traces.thoughts import SEAL, THOUGHT_CLASSES, Thought, ThoughtClass, ThoughtRule
from mi_lens.traces.thoughts import split_thoughts as split
from mi_lens.traces.trace import Trace
from mi_lens.traces.vocabulary import vocabulary

ASKING = "\n</think>\n\nThe final answer is \\boxed{"


@dataclass(frozen=True)
class ThoughtGains:
    """A trace, cut after every thought and asked for the answer.

    Attributes:
        trace: Its id.
        problem: Key of its problem (`Problem.key`).
        thoughts: In order.
        cuts: How many generated tokens each answer saw: none; all up to the boundary that opens the
            first thought; all up to the end of each thought.
        bits: At each cut, -log2 of the probability of the gold answer; 0 where it is certain.
    """

    trace: str
    problem: str
    thoughts: tuple[Thought, ...]
    cuts: tuple[int, ...]
    bits: tuple[float, ...]

    @property
    def gains(self) -> tuple[float, ...]:
        """For every thought, by how many bits it makes the gold answer more likely."""
        return tuple(before - after for before, after in pairwise(self.bits[1:]))


def thought_gains(
    model,
    traces: Sequence[Trace],
    *,
    asking: str = ASKING,
    closing: str = "}",
    rule: ThoughtRule = SEAL,
    progress: bool = False,
) -> list[ThoughtGains]:
    """Asks for the gold answer after every thought of traces.

    A cut leaves out the boundary: `asking` follows the last word of a thought, as "</think>" does,
    without the full stop that some tokenizers write in one token with the blank line. The
    probability is of the answer's tokens as the tokenizer writes them, and of any token that begins
    with `closing` after them.

    A trace is read once; from its last cut to its first the cache is cropped and the question put
    again. So traces are read one at a time: what is done again is a cut's few tokens.

    Args:
        model: The model, with its tokenizer.
        traces: With their problems; those without thoughts are passed over.
        asking: What follows a cut, up to the answer. It should be as the model itself ends: compare
            the last cut of right traces, which should leave next to no bits.
        closing: What ends the answer.
        rule: Tells thoughts apart.
        progress: Shows a bar on a terminal's stderr.

    Raises:
        ValueError: If a trace has no gold answer, or with the question does not fit the context.
    """
    gains = []
    for trace in tqdm(traces, desc="ask", unit="trace", disable=None if progress else True):
        if trace.problem is None or not trace.problem.answer:
            raise ValueError(f"trace {trace.id} has no gold answer to ask for; leave it out")
        thoughts = split(model.tokenizer, trace, rule)
        if thoughts:
            cuts = (0, thoughts[0].start - 1, *(thought.stop for thought in thoughts))
            bits = answer_bits(model, trace, cuts, asking=asking, closing=closing)
            key = trace.problem.key
            gains.append(ThoughtGains(trace.id, key, tuple(thoughts), cuts, bits))
    return gains


@torch.inference_mode()
def answer_bits(
    model, trace: Trace, cuts: Sequence[int], *, asking: str = ASKING, closing: str = "}"
) -> tuple[float, ...]:
    """-log2 P(gold answer) where a trace is cut after so many generated tokens.

    Args:
        model: The model, with its tokenizer.
        trace: With its problem.
        cuts: Numbers of generated tokens to keep, each at most the trace's.
        asking: See `thought_gains`.
        closing: See `thought_gains`.

    Raises:
        ValueError: If a cut lies outside the trace, the text does not fit the model's context, or
            no token begins with `closing`.
    """
    assert trace.problem is not None
    if min(cuts) < 0 or max(cuts) > len(trace):
        raise ValueError(f"cuts {list(cuts)} of trace {trace.id}: expected 0 to {len(trace)}")
    asked = model.tokenizer.encode(asking, add_special_tokens=False)
    answer = model.tokenizer.encode(trace.problem.answer, add_special_tokens=False)
    start = len(trace.prompt_ids)
    longest = start + max(cuts) + len(asked) + len(answer)
    if longest > model.cfg.n_ctx:
        raise ValueError(
            f"trace {trace.id} has {longest} tokens with the question for its answer, and the "
            f"model's context {model.cfg.n_ctx}; leave it out"
        )
    closings = _closing_ids(model.tokenizer, closing)
    backend = backend_of(model)
    cache = read_in_segments(model, [[*trace.prompt_ids, *trace.token_ids[: max(cuts)]]])
    device = model.cfg.device
    question = torch.tensor([[*asked, *answer]], device=device)
    bits = {}
    for cut in sorted(set(cuts), reverse=True):
        backend.crop(cache, start + cut)
        mask = torch.ones(1, start + cut + question.shape[1], dtype=torch.long, device=device)
        logits = backend.step(model, question, mask, cache, logits_to_keep=len(answer) + 1)
        bits[cut] = _bits(logits[0], answer, closings)
    return tuple(bits[cut] for cut in cuts)


def _closing_ids(tokenizer, closing: str) -> list[int]:
    ids = [i for i, string in enumerate(vocabulary(tokenizer)) if string.startswith(closing)]
    if not closing or not ids:
        raise ValueError(f"closing={closing!r}: expected the beginning of some token, as '}}'")
    return ids


def _bits(logits: Float[Tensor, "pos d_vocab"], answer: list[int], closings: list[int]) -> float:
    """Of the answer's tokens, emitted at all positions but the last, and its end at the last."""
    log_p = logits.double().log_softmax(-1).cpu()
    written = log_p[torch.arange(len(answer)), torch.tensor(answer)].sum()
    return float(-(written + log_p[-1, closings].logsumexp(0))) / math.log(2)


@dataclass(frozen=True)
class ClassGains:
    """What thoughts of one class gain: means over a problem's thoughts, then over problems.

    Attributes:
        thoughts: Their number.
        bits: Gained by a thought. A model that is sure of something else gives the gold answer
            one chance in 2^50 or in 2^60: ten bits that no sample would ever show.
        probability: Gained of the gold answer, which counts such a change as nothing.
        loss: Share of thoughts that make the gold answer less likely.
    """

    thoughts: int
    bits: Estimate
    probability: Estimate
    loss: Estimate


def gains_by_class(traces: Sequence[ThoughtGains]) -> dict[ThoughtClass, ClassGains]:
    """Bits gained by class of thought, over problems (traces, where each has its own).

    A class is judged where it stands: a check can gain nothing where no doubt was left.
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
