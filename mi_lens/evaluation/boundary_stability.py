"""Does a thought of the same kind follow when the model writes on from its boundary again?

SEAL's keywords say of a boundary what followed once. Zhuang et al. (arXiv 2604.02113) write on from
541 such boundaries ten times each; at 93 % of them the same behaviour does not come in eight of
ten. A vector from the other boundaries alone is their stability filter:

    stability = boundary_stability(model, traces)
    vectors = extract_steering_vectors(model, traces, hooks, only=stability.is_stable)

The model writes with its own sampling and without interventions: a share is the chance that this
model, here, begins a thought of this class.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from mi_lens.common.html import table
from mi_lens.common.intervals import estimate_share
from mi_lens.common.statistics import Estimate
from mi_lens.evaluation.continuations import fresh_seeds, require_prompt
from mi_lens.generation.engines.protocol import Engine
from mi_lens.generation.generate import generate
from mi_lens.generation.request import Request
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.sampling import Sampling
from mi_lens.models.model import Model
from mi_lens.problems.prompts import PromptStyle
from mi_lens.traces.think_block import boundary_ids, closing_ids
from mi_lens.traces.thoughts import (
    SEAL,
    THOUGHT_CLASSES,
    Thought,
    ThoughtClass,
    ThoughtRule,
    split_thoughts,
)
from mi_lens.traces.trace import Trace

AS_PUBLISHED = Sampling(temperature=0.7, top_p=0.95)


@dataclass(frozen=True)
class Rewritten:
    """A thought, and what the model wrote in its place.

    Attributes:
        trace: Id of the trace.
        problem: Key of its problem (`Problem.key`).
        start: The thought's first step, as in `Thought`.
        thought_class: The thought's class.
        again: The class of each thought that was written in its place; None where thinking ended,
            or nothing but blank space was written.
    """

    trace: str
    problem: str
    start: int
    thought_class: ThoughtClass
    again: tuple[ThoughtClass | None, ...]

    @property
    def share(self) -> float:
        """The share of new thoughts that are of the same class."""
        return sum(each == self.thought_class for each in self.again) / len(self.again)


@dataclass(frozen=True)
class BoundaryStability:
    """The thoughts of traces, written again from their boundaries.

    Attributes:
        rewritten: One element per thought, traces and thoughts in order.
        rule: Name of the rule that assigned the classes.
        least: The share of new thoughts of the same class from which a boundary counts as stable.
        samples: Number of new thoughts per boundary.
    """

    rewritten: tuple[Rewritten, ...]
    rule: str
    least: float
    samples: int

    def __post_init__(self):
        if not 0 < self.least <= 1:
            raise ValueError(f"least={self.least}: expected a share above 0, at most 1")

    @cached_property
    def _stable(self) -> dict[tuple[str, int], bool]:
        return {(r.trace, r.start): r.share >= self.least for r in self.rewritten}

    def __repr__(self) -> str:
        counts = ", ".join(f"{a} of {b} {kind}" for kind, (a, b) in self.counts.items())
        return f"BoundaryStability({counts} in {self.least:g} of {self.samples} or more)"

    def _repr_html_(self) -> str:
        about = {kind: f"{a:,} of {b:,}" for kind, (a, b) in self.counts.items()}
        return table(about, ("class", "stable"), f"{self.least:g} of {self.samples} or more alike")

    def is_stable(self, trace: Trace, thought: Thought) -> bool:
        """Whether the boundary that opens the thought is stable.

        Raises:
            ValueError: If the thought was not written again.
        """
        if (trace.id, thought.start) not in self._stable:
            raise ValueError(
                f"the thought at step {thought.start} of trace {trace.id} was not written again; "
                "give the traces that boundary_stability was given"
            )
        return self._stable[trace.id, thought.start]

    @property
    def counts(self) -> dict[ThoughtClass, tuple[int, int]]:
        """For each class, how many boundaries are stable, and how many there are."""
        return {
            kind: (
                sum(r.share >= self.least for r in self._of(kind)),
                len(self._of(kind)),
            )
            for kind in THOUGHT_CLASSES
        }

    def stable_share(self, *classes: ThoughtClass) -> Estimate:
        """The share of stable boundaries among those of some classes, with a score interval.

        The units are problems, whose shares have equal weight; without a class, all count.
        """
        by_problem: dict[str, list[float]] = {}
        for kind in classes or THOUGHT_CLASSES:
            for r in self._of(kind):
                by_problem.setdefault(r.problem, []).append(float(r.share >= self.least))
        # Problems have different numbers of thoughts; the fewest say how many are behind each.
        return estimate_share(
            [sum(values) / len(values) for values in by_problem.values()],
            trials=min(map(len, by_problem.values()), default=1),
        )

    def _of(self, kind: ThoughtClass) -> list[Rewritten]:
        return [r for r in self.rewritten if r.thought_class == kind]


def boundary_stability(
    model: Model,
    traces: Sequence[Trace],
    *,
    samples: int = 10,
    least: float = 0.8,
    sampling: Sampling = AS_PUBLISHED,
    rule: ThoughtRule = SEAL,
    most: int = 128,
    style: PromptStyle = "chat",
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = False,
    engine: Engine | None = None,
) -> BoundaryStability:
    """Writes every thought of the traces again from its boundary, and compares the classes.

    Args:
        model: The model that wrote the traces, with its tokenizer.
        traces: Finished traces with their problems.
        samples: How often each thought is written again; the paper's number is 10.
        least: The share of the same class from which a boundary is stable; the paper's is 0.8.
        sampling: How new thoughts are drawn; by default as in the paper.
        rule: Assigns a class to every thought.
        most: The most tokens of a new thought; the paper's number is 128. A thought that is cut off
            has the class of what was written.
        style: The prompt style of the traces.
        seed: The first of the seeds, which count up and skip the trace's own.
        batch_size: See `generate`.
        progress: See `generate`.
        engine: What generates; None means our own loop on the model.

    Raises:
        ValueError: If thoughts would be written greedily, which gives one thought however often; if
            there are no thoughts; or if a trace has no problem, or a prompt of another style.
    """
    _require_settings(samples, most, sampling)
    tokenizer = model.tokenizer
    stop, plain = _stops(tokenizer), Condition((), sampling)
    requests, thoughts = [], []
    for trace in traces:
        problem = trace.require_problem("to tell what its thoughts answer")
        split = split_thoughts(tokenizer, trace, rule)
        if split:
            require_prompt(tokenizer, trace, problem, style)
        seeds = fresh_seeds(seed, samples, trace.seed)
        for thought in split:
            thoughts.append((trace, thought))
            before = trace.token_ids[: thought.start]
            budget = len(before) + most
            requests += [Request(problem, plain, style, s, budget, stop, before) for s in seeds]
    if not thoughts:
        raise ValueError(
            f"no thoughts in {len(traces)} traces; expected reasoning with blank lines between "
            "thoughts inside the think block"
        )
    written = iter(generate(engine or model, requests, batch_size=batch_size, progress=progress))
    rewritten = []
    for trace, thought in thoughts:
        again: tuple[ThoughtClass | None, ...] = tuple(
            _class_at(tokenizer, next(written), thought.start, rule) for _ in range(samples)
        )
        key = trace.require_problem("to tell what its thoughts answer").key
        rewritten.append(Rewritten(trace.id, key, thought.start, thought.thought_class, again))
    return BoundaryStability(tuple(rewritten), rule.name, least, samples)


def _require_settings(samples: int, most: int, sampling: Sampling) -> None:
    if samples < 1 or most < 1:
        raise ValueError(f"samples={samples}, most={most}: expected at least 1 of both")
    if sampling.temperature == 0:
        raise ValueError("temperature=0: the thought would be the same each time; expected above 0")


def _stops(tokenizer) -> tuple[int, ...]:
    """Tokens behind which nothing of a thought can follow.

    Some tokenizers write a blank line as two tokens; thoughts are then written up to `most` tokens.
    """
    try:
        return tuple(sorted(boundary_ids(tokenizer) | closing_ids(tokenizer)))
    except ValueError:
        return tuple(sorted(closing_ids(tokenizer)))


def _class_at(tokenizer, trace: Trace, start: int, rule: ThoughtRule) -> ThoughtClass | None:
    """The class of the thought that begins at a step of a trace; None if there is none."""
    found = (t for t in split_thoughts(tokenizer, trace, rule) if t.start == start)
    return next((thought.thought_class for thought in found), None)
