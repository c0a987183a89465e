"""Traces: what a model generated, with everything needed to compute its states again."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypedDict, get_args

from mi_lens.common.html import one_line, table, text_box
from mi_lens.common.provenance import content_hash
from mi_lens.problems.problem import Problem, require_writable
from mi_lens.problems.prompts import PromptStyle, encode_prompt
from mi_lens.problems.think_kinds import kind_of_text, think_kind

StopReason = Literal["eos", "stop", "length", "context", "imported"]


class ConditionRecord(TypedDict, total=False):
    """The settings under which a trace was generated, as JSON.

    Attributes:
        name: Name of the condition. It has no effect on the generation.
        sampling: The fields of `Sampling`.
        interventions: The interventions in the order in which they act. Each has its "kind" and its
            settings. A hash stands for a long list of numbers.
        engine: Name and version of the engine, if it was not this package's loop.
        max_new_tokens: Largest number of generated tokens, those of a prefix included.
        style: How the question became the prompt.
        stop: Texts and token ids that end the generation.
        prefix: How many of the first generated tokens were given and not sampled.
        hooks: The user's own hooks under which the model generated: the name that the user gave
            them, or "unnamed: " and the hooks. There is no such key if there were none.
    """

    name: str
    sampling: dict[str, Any]
    interventions: list[dict[str, Any]]
    engine: str
    max_new_tokens: int
    style: PromptStyle
    stop: list[str | int]
    prefix: int
    hooks: str


@dataclass(frozen=True)
class Trace:
    """One generation. Step t is the t-th generated token.

    A trace of text alone, as published rollouts are, has no token ids and therefore no steps.
    `tokenized` gives it both.

    Attributes:
        id: Hash of what produced the trace: model, prompt, condition, seed and budget.
        model: Fingerprint of the model that generated the trace, or a name if the text was
            imported.
        prompt: The prompt as text; the question in a trace of text alone.
        prompt_ids: The prompt's token ids, without padding. Empty in a trace of text alone.
        token_ids: The generated token ids. A final end-of-text token is included. Empty in a trace
            of text alone.
        text: The generated tokens as text, without special tokens. Those that mark the think block
            stay in it, even where they are special tokens.
        stop_reason: Why the generation ended: "eos" (end-of-text token), "stop" (a stop text or
            token), "length" (the budget is spent), "context" (the model's context is full), or
            "imported" (the text was not generated here).
        seed: The request's seed.
        condition: Interventions, sampling and other settings. An imported text has at most a name.
        problem: The problem that the prompt asks, if there is one.
        events: What the interventions did. Each event is a mapping with "step" and "what".
        interventions: The interventions themselves, as `mi_lens.generate` was given them. They are
            not written to files; `mi_lens.with_condition` gives them back.
        is_correct: Whether the answer is right, as whoever published the text says. None if nobody
            said so, as for what is generated here.
    """

    id: str
    model: str
    prompt: str
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    text: str
    stop_reason: StopReason
    seed: int = 0
    condition: ConditionRecord = field(default_factory=ConditionRecord)
    problem: Problem | None = None
    events: tuple[dict[str, Any], ...] = ()
    interventions: tuple[Any, ...] = field(default=(), compare=False, repr=False)
    is_correct: bool | None = None

    def __post_init__(self):
        if not self.prompt_ids and (self.token_ids or not self.text):
            raise ValueError(
                f"trace {self.id}: its prompt has no tokens; the model emits the first token at "
                "the prompt's last position, so expected at least one prompt token"
            )
        if self.stop_reason not in get_args(StopReason):
            raise ValueError(
                f"trace {self.id}: stop_reason is {self.stop_reason!r}; expected one of "
                f"{get_args(StopReason)}"
            )
        if self.is_correct is not None and not isinstance(self.is_correct, bool):
            raise ValueError(
                f"trace {self.id}: is_correct is {self.is_correct!r}; expected True, False or None"
            )

    @property
    def text_only(self) -> bool:
        """Whether this is a trace of text alone, which has no token ids and no steps."""
        return not self.prompt_ids

    def require_steps(self) -> "Trace":
        """The trace itself, if it has token ids.

        Raises:
            ValueError: If it is a trace of text alone.
        """
        if self.text_only:
            raise ValueError(
                f"trace {self.id} is text alone, without token ids, so it has no steps; give it a "
                "tokenizer by trace.tokenized(tokenizer, style=...)"
            )
        return self

    def __len__(self) -> int:
        """The number of steps, which are the generated tokens; a ValueError for text alone."""
        return len(self.require_steps().token_ids)

    def require_problem(self, purpose: str) -> Problem:
        """The problem of a trace that must have one.

        Args:
            purpose: What the problem is needed for, such as "to grade it by". The error message
                says so.

        Raises:
            ValueError: If the trace has no problem.
        """
        if self.problem is None:
            raise ValueError(
                f"trace {self.id} has no problem {purpose}; generate it from a Problem, or import "
                "it with Trace.from_text"
            )
        return self.problem

    def under(self, interventions: tuple[Any, ...]) -> "Trace":
        """The trace with its interventions themselves, which a file does not hold."""
        return replace(self, interventions=interventions)

    @property
    def consumed_ids(self) -> tuple[int, ...]:
        """For every step, the id of the token at the position that emits the step's token."""
        ids = (*self.require_steps().prompt_ids, *self.token_ids)
        return ids[len(self.prompt_ids) - 1 : -1]

    def __repr__(self) -> str:
        asked = self.prompt if self.problem is None else self.problem.question
        condition = one_line(self.condition.get("name", "imported"), 40)
        length = f"{len(self.token_ids):,} tokens"
        if self.text_only:
            length = f"{len(self.text):,} characters of text alone"
        return (
            f"Trace({one_line(asked, 60)!r}: {length}, {condition}, seed {self.seed}, "
            f"ended by {self.stop_reason}, id {self.id})"
        )

    def _repr_html_(self) -> str:
        problem = self.problem
        about = {
            "question": self.prompt if problem is None else problem.question,
            "gold answer": None if problem is None else problem.answer,
            "tokens": None if self.text_only else len(self),
            "ended by": self.stop_reason,
            "seed": self.seed,
            "condition": self.condition.get("name"),
        }
        return f"{table(about)}\n{text_box(self.text)}"

    def token_strings(self, tokenizer) -> list[str]:
        """The text of each generated token. Bytes of a split character appear as U+FFFD."""
        return tokenizer.batch_decode([[token] for token in self.require_steps().token_ids])

    @classmethod
    def from_text(
        cls,
        tokenizer,
        problem: Problem | str,
        text: str,
        *,
        model: str = "imported",
        style: PromptStyle = "chat",
        stop_reason: StopReason | None = None,
        think_open: bool = False,
        seed: int = 0,
        condition: str | None = None,
        is_correct: bool | None = None,
    ) -> "Trace":
        """A trace of text that was generated elsewhere.

        Args:
            tokenizer: The tokenizer that gives the text token ids, see `tokenized`; None makes a
                trace of text alone.
            problem: The problem, or its question.
            text: What the model wrote.
            model: The model's name.
            style: How the question becomes the prompt.
            stop_reason: Why the generation ended. If None, it is "length" for a text that is cut
                off inside the think block, and "imported" for any other.
            think_open: Whether the prompt opened the think block, as chat templates of reasoning
                models do. A text without any mark of a block is then cut off inside it.
            seed: The sampling seed.
            condition: Name of the condition.
            is_correct: Whether the answer is right, as whoever published the text says.

        Raises:
            ValueError: If the text is empty.
        """
        if isinstance(problem, str):
            problem = Problem(id=content_hash(problem), question=problem, answer="")
        if not isinstance(text, str) or not text:
            raise ValueError(f"problem {problem.id}: the text to import is empty")
        require_writable(text, f"problem {problem.id}: the text to import")
        if stop_reason is None:
            kind = kind_of_text(text)
            cut_off = (think_open or kind.opening in text) and kind.closings[-1] not in text
            stop_reason = "length" if cut_off else "imported"
        alone = cls(
            id=content_hash([model, problem.question, text, seed, condition]),
            model=model,
            prompt=problem.question,
            prompt_ids=(),
            token_ids=(),
            text=text,
            stop_reason=stop_reason,
            seed=seed,
            condition=ConditionRecord() if condition is None else ConditionRecord(name=condition),
            problem=problem,
            is_correct=is_correct,
        )
        return alone if tokenizer is None else alone.tokenized(tokenizer, style=style)

    def tokenized(self, tokenizer, *, style: PromptStyle = "chat") -> "Trace":
        """A trace of text alone with the token ids that a tokenizer gives prompt and text.

        The token boundaries are the tokenizer's and not the sampler's: where a model sampled "Wa" +
        "it", the tokenizer may write "Wait". If the prompt already ends with the mark that opens
        the think block, such as "<think>", that mark is removed from the start of the text.

        Raises:
            ValueError: If the trace has token ids, or its text holds only that mark.
        """
        if not self.text_only:
            raise ValueError(
                f"trace {self.id} has token ids; for those of another tokenizer, import its text: "
                "Trace.from_text(tokenizer, trace.problem, trace.text)"
            )
        question = self.prompt if self.problem is None else self.problem.question
        prompt, prompt_ids = encode_prompt(tokenizer, question, style)
        text, opening = self.text, think_kind(tokenizer).opening
        if opening and prompt.rstrip().endswith(opening):
            text = text.removeprefix(opening).removeprefix("\n")
        token_ids = tuple(tokenizer.encode(text, add_special_tokens=False))
        if not token_ids:
            name = self.id if self.problem is None else self.problem.id
            raise ValueError(f"problem {name}: the text to import is empty")
        return replace(
            self,
            id=content_hash([self.id, prompt_ids, token_ids]),
            prompt=prompt,
            prompt_ids=prompt_ids,
            token_ids=token_ids,
            text=text,
        )
