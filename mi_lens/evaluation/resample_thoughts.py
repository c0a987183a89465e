"""How much a thought decides the answer: the thought is kept, or the model writes another one.

Thought Anchors (arXiv 2506.19143) continues a trace from the end of a sentence and from its start.
From the start the model writes its own replacement. A continuation counts as one without the
thought only if the replacement says something else. Thought Branches (arXiv 2510.27484) goes on
where the thought's content comes back later: there the model writes anew once more, until the
content stays away. All text is the model's own. Nothing is edited, because effects of edits by hand
are small and unstable there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mi_lens.common.by_problem import mean_over_problems
from mi_lens.common.statistics import Estimate
from mi_lens.evaluation.continuations import (
    fresh_seeds,
    require_continuable,
    require_samples,
)
from mi_lens.evaluation.importance import Importance, Measure, Outcome, importance
from mi_lens.evaluation.thought_replacements import Beginning, Chain, Replacement, Writer
from mi_lens.generation.engines.lookup import engine_of
from mi_lens.generation.engines.protocol import Engine
from mi_lens.generation.request import end_of_text_ids
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.sampling import Sampling
from mi_lens.models.model import Model
from mi_lens.problems.prompts import PromptStyle
from mi_lens.traces.think_block import boundary_steps
from mi_lens.traces.thought_content import SameContent, text_distance
from mi_lens.traces.thoughts import SEAL, Thought, ThoughtRule, split_thoughts
from mi_lens.traces.trace import Trace


@dataclass(frozen=True)
class ResampledThought:
    """A thought that was kept, and written anew.

    Attributes:
        trace: Id of the trace.
        problem: Key of its problem (`Problem.key`).
        thought: The thought.
        threshold: Texts at a smaller distance are near each other (`SameContent`).
        kept: Outcomes of the continuations from the thought's end.
        replacements: The continuations from its start.
        importance: Of the continuations whose replacement differs; None if they are too few.
        importance_gone: Of the last continuations, if they do not hold the content at all
            (counterfactual++ in Thought Branches); None if they are too few.
    """

    trace: str
    problem: str
    thought: Thought
    threshold: float
    kept: tuple[Outcome, ...]
    replacements: tuple[Replacement, ...]
    importance: Importance | None
    importance_gone: Importance | None

    @property
    def differing(self) -> int:
        """Number of continuations whose replacement says something else."""
        return sum(replacement.differs for replacement in self.replacements)

    @property
    def gone(self) -> int:
        """Number of last continuations without the thought's content."""
        return sum(replacement.gone for replacement in self.replacements)

    @property
    def resilience(self) -> float:
        """How many times the content came back, on average over the continuations.

        It is at most `rounds` + 1. Content that is not gone would have come back more often.
        """
        return float(np.mean([replacement.returned for replacement in self.replacements]))


def resample_thoughts(
    model: Model | Engine,
    traces: Sequence[Trace],
    thoughts: Sequence[Sequence[Thought]] | None = None,
    *,
    samples: int = 16,
    rounds: int = 0,
    least: int = 4,
    distance: Callable[[str, str], float] = text_distance,
    threshold: float | None = None,
    sampling: Sampling | None = None,
    style: PromptStyle = "chat",
    rule: ThoughtRule = SEAL,
    max_new_tokens: int = 512,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = False,
) -> list[ResampledThought]:
    """Continues traces from the start and from the end of thoughts, and compares the answers.

    A replacement is the first thought that the model writes from the start. It says the same if it
    states the same numbers, in a text nearer than the threshold. Content comes back where a
    thought of a continuation, the replacement or a later one, says the same; text behind the think
    block does not count. With `rounds`, the model then writes anew from there, with fresh seeds.

    Seeds count up from `seed`, skip the trace's own, and are the same with and without the thought.
    Equal beginnings are continued once: the end of a thought is the start of the next. The
    interventions of a trace do not act on its continuations. All continuations of a round are
    generated in one call.

    Args:
        model: A HookedTransformer or TransformerBridge, or an engine from `load_engine`.
        traces: Traces with their problems.
        thoughts: For every trace the thoughts to test, out of `split_thoughts`; None tests all.
        samples: Number of continuations from the start, and of those from the end.
        rounds: How many more times the content may be written anew.
        least: An importance needs so many continuations on both sides.
        distance: The distance of two texts, such as that of their embeddings.
        threshold: Texts at a smaller distance are near each other. None takes the median over all
            thoughts and replacements of the call, as the paper does with cosines, so that it
            depends on what is tested together.
        sampling: How continuations are drawn; None means temperature 1. To stay on the policy
            that wrote the traces, give theirs.
        style: The prompt style of the traces.
        rule: Tells the classes of thoughts apart.
        max_new_tokens: Budget of a whole trace, including the tokens that are kept.
        seed: The first seed.
        batch_size: See `generate`.
        progress: See `generate`.

    Returns:
        One element per thought: traces in order, thoughts as they were given.

    Raises:
        ValueError: If there is not one list of thoughts per trace, or no thought at all; a thought
            is not one of its trace, or leaves no room to continue; a trace has no problem, nothing
            to grade it by, or a prompt of another style; or a number is out of its range.
    """
    sampling = Sampling(1.0) if sampling is None else sampling
    _require_numbers(sampling, samples, rounds, least)
    tested = _tested(engine_of(model).model, traces, thoughts, style, rule, max_new_tokens)
    condition = Condition((), sampling, "resampled")
    writer = Writer(model, condition, style, rule, max_new_tokens, batch_size, progress)
    starts = [
        Beginning(trace, thought.start, s)
        for trace, thought, _ in tested
        for s in fresh_seeds(seed, samples, trace.seed)
    ]
    ends = [
        Beginning(trace, end, s)
        for trace, _, end in tested
        for s in fresh_seeds(seed, samples, trace.seed)
    ]
    written = writer.write(starts + ends)
    removed = [thought for _, thought, _ in tested for _ in range(samples)]
    chains = [Chain(*pair) for pair in zip(removed, written[: len(starts)], strict=True)]
    far = [
        1.0 if chain.replacement is None else distance(chain.thought.text, chain.replacement)
        for chain in chains
    ]
    same = SameContent(float(np.median(far)) if threshold is None else threshold, distance)
    for chain in chains:
        chain.look(same, chain.thought.start)
    _write_again(writer, chains, starts, same, rounds, seed, samples)
    ended = [chain.result(same, gap) for chain, gap in zip(chains, far, strict=True)]
    kept = [one.outcome for one in written[len(starts) :]]
    results = []
    for place, (trace, thought, _) in enumerate(tested):
        own = slice(place * samples, (place + 1) * samples)
        results.append(_result(trace, thought, same.threshold, kept[own], ended[own], least))
    return results


def _require_numbers(sampling: Sampling, samples: int, rounds: int, least: int) -> None:
    require_samples(sampling, samples)
    if rounds < 0 or not 1 <= least <= samples:
        raise ValueError(
            f"rounds={rounds}, least={least}: expected 0 rounds or more, and 1 to "
            f"samples={samples} continuations for an importance"
        )


def _tested(
    model: Model,
    traces: Sequence[Trace],
    thoughts: Sequence[Sequence[Thought]] | None,
    style: PromptStyle,
    rule: ThoughtRule,
    max_new_tokens: int,
) -> list[tuple[Trace, Thought, int]]:
    """Each trace and thought to test, with the number of tokens up to the thought's end.

    The boundary behind a thought is part of what is kept.
    """
    found = [split_thoughts(model.tokenizer, trace, rule) for trace in traces]
    chosen = found if thoughts is None else thoughts
    if len(chosen) != len(traces) or not any(chosen):
        raise ValueError(
            f"{len(traces)} traces with {len(chosen)} lists of {sum(map(len, chosen))} thoughts; "
            "expected one list per trace, and at least one thought"
        )
    stops = end_of_text_ids(model)
    tested = []
    for trace, own, of_trace in zip(traces, found, chosen, strict=True):
        if of_trace:
            require_continuable(model.tokenizer, trace, style)
        boundaries = set(boundary_steps(model.tokenizer, trace.token_ids))
        for thought in of_trace:
            if thought not in own:
                raise ValueError(
                    f"{thought!r} is no thought of trace {trace.id} by the rule {rule.name!r}; "
                    "expected one of mi_lens.split_thoughts(tokenizer, trace)"
                )
            end = thought.stop + (thought.stop in boundaries)
            if end >= max_new_tokens or stops.intersection(trace.token_ids[thought.start : end]):
                raise ValueError(
                    f"{thought!r} of trace {trace.id} ends at token {end}, and nothing can follow "
                    f"within max_new_tokens={max_new_tokens}; leave it out, or raise the budget"
                )
            tested.append((trace, thought, end))
    return tested


def _write_again(
    writer: Writer,
    chains: Sequence[Chain],
    starts: Sequence[Beginning],
    same: SameContent,
    rounds: int,
    seed: int,
    samples: int,
) -> None:
    """Writes anew, up to `rounds` times, where the content of a thought comes back."""
    for turn in range(1, rounds + 1):
        first = seed + turn * (samples + 1)
        back = [
            (chain, Beginning(chain.last.trace, chain.back, own[place % samples]))
            for place, (chain, start) in enumerate(zip(chains, starts, strict=True))
            if chain.back is not None
            for own in (fresh_seeds(first, samples, start.trace.seed),)
        ]
        if not back:
            return
        for (chain, _), new in zip(back, writer.write([b for _, b in back]), strict=True):
            chain.go_on(new, same)


def _result(
    trace: Trace,
    thought: Thought,
    threshold: float,
    kept: Sequence[Outcome],
    replacements: Sequence[Replacement],
    least: int,
) -> ResampledThought:
    differing = [one.outcome for one in replacements if one.differs]
    gone = [one.last for one in replacements if one.gone]
    return ResampledThought(
        trace=trace.id,
        problem=trace.require_problem("to name").key,
        thought=thought,
        threshold=threshold,
        kept=tuple(kept),
        replacements=tuple(replacements),
        importance=importance(kept, differing) if len(differing) >= least else None,
        importance_gone=importance(kept, gone) if len(gone) >= least else None,
    )


def mean_importance(
    resampled: Sequence[ResampledThought], measure: Measure = "divergence", *, gone: bool = False
) -> Estimate:
    """The mean importance: over the thoughts of each problem, then over problems.

    Thoughts whose importance is None do not count.

    Args:
        resampled: What `resample_thoughts` returns.
        measure: "divergence" in bits or "variation", both beyond chance; or "accuracy".
        gone: Whether to take the continuations that do not hold the content at all.

    Raises:
        ValueError: If there is no such measure.
    """
    found = [(one.problem, one.importance_gone if gone else one.importance) for one in resampled]
    return mean_over_problems((problem, i.value(measure)) for problem, i in found if i is not None)
