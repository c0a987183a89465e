"""What a model writes in place of a thought, and where the thought's content comes back."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mi_lens.evaluation.importance import Outcome, outcome_of
from mi_lens.generation.engines.lookup import engine_of
from mi_lens.generation.engines.protocol import Engine
from mi_lens.generation.generate import generate
from mi_lens.generation.request import Request
from mi_lens.interventions.condition import Condition
from mi_lens.models.model import Model
from mi_lens.problems.prompts import PromptStyle
from mi_lens.traces.thought_content import SameContent
from mi_lens.traces.thoughts import Thought, ThoughtRule, split_thoughts
from mi_lens.traces.trace import Trace


@dataclass(frozen=True)
class Beginning:
    """The first `length` tokens of a trace, to be continued with a seed."""

    trace: Trace
    length: int
    seed: int


@dataclass(frozen=True)
class Written:
    """A continuation of a beginning: its trace, all thoughts of it, and how it ends."""

    trace: Trace
    thoughts: tuple[Thought, ...]
    outcome: Outcome

    def thoughts_from(self, step: int) -> Iterator[Thought]:
        """The thoughts that begin at a step or later."""
        return (thought for thought in self.thoughts if thought.start >= step)


@dataclass(frozen=True)
class Writer:
    """Continues beginnings; settings are those of `resample_thoughts`."""

    model: Model | Engine
    condition: Condition
    style: PromptStyle
    rule: ThoughtRule
    max_new_tokens: int
    batch_size: int
    progress: bool

    def write(self, beginnings: Sequence[Beginning]) -> list[Written]:
        """One continuation per beginning, in order; those of equal beginnings are one."""
        tokenizer = engine_of(self.model).model.tokenizer
        keys = [(id(b.trace.problem), b.trace.token_ids[: b.length], b.seed) for b in beginnings]
        requests = {
            key: Request(
                beginning.trace.require_problem("to continue"),
                self.condition,
                self.style,
                beginning.seed,
                self.max_new_tokens,
                prefix=key[1],
            )
            for key, beginning in zip(keys, beginnings, strict=True)
        }
        traces = generate(
            self.model, requests.values(), batch_size=self.batch_size, progress=self.progress
        )
        written = {
            key: Written(trace, tuple(split_thoughts(tokenizer, trace, self.rule)), outcome)
            for key, trace in zip(requests, traces, strict=True)
            for outcome in (outcome_of(trace),)
        }
        return [written[key] for key in keys]


@dataclass(frozen=True)
class Replacement:
    """What the model wrote in place of a thought.

    Attributes:
        text: The thought in its place; None if the model left the think block instead.
        distance: Its text's distance from the thought's; 1 if there is none.
        differs: Whether it says something else: other numbers, or a text that is not near.
        outcome: How the continuation ends.
        returned: How many continuations held the thought's content, one after another.
        gone: Whether the last of them does not hold it.
        last: How the last continuation ends.
    """

    text: str | None
    distance: float
    differs: bool
    outcome: Outcome
    returned: int
    gone: bool
    last: Outcome


class Chain:
    """Continuations without a thought, each from where the last one said the thought again.

    Args:
        thought: The thought that was there.
        first: The continuation from the thought's start.

    Attributes:
        replacement: The text in the thought's place, or None.
        last: The last continuation.
        back: The step at which the last continuation says the thought again, or None.
        returned: How many continuations did.
    """

    def __init__(self, thought: Thought, first: Written):
        self.thought, self.first, self.last = thought, first, first
        place = next(first.thoughts_from(thought.start), None)
        self.replacement = None if place is None else place.text
        self.back: int | None = None
        self.returned = 0

    def look(self, same: SameContent, start: int) -> None:
        """Finds the first thought of the last continuation that says the same, from a step on."""
        found = (
            thought.start
            for thought in self.last.thoughts_from(start)
            if same(self.thought.text, thought.text)
        )
        self.back = next(found, None)
        self.returned += self.back is not None

    def go_on(self, written: Written, same: SameContent) -> None:
        """Takes a continuation from where the content came back."""
        assert self.back is not None
        self.last = written
        self.look(same, self.back)

    def result(self, same: SameContent, distance: float) -> Replacement:
        """The chain's end.

        Args:
            same: Tells whether texts say the same.
            distance: The replacement's distance from the thought.
        """
        said_again = self.replacement is not None and same(self.thought.text, self.replacement)
        return Replacement(
            text=self.replacement,
            distance=distance,
            differs=not said_again,
            outcome=self.first.outcome,
            returned=self.returned,
            gone=self.back is None,
            last=self.last.outcome,
        )
