"""Which answers a lens is asked for on each trace, and the first token of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mi_lens.problems.answers import given_answer
from mi_lens.traces.trace import Trace
from mi_lens.traces.vocabulary import vocabulary

BOX = r"\boxed{"
Written = Literal["boxed", "spaced"]


@dataclass(frozen=True)
class AskedAnswers:
    """The answers whose first tokens are read on one trace.

    Attributes:
        gold: The gold answer and its first token, if there is one.
        final: The trace's own answer and its first token, if there is one.
        others: The first tokens of other problems' answers, one per answer.
    """

    gold: tuple[str, int] | None
    final: tuple[str, int] | None
    others: list[int]

    @property
    def tokens(self) -> list[int]:
        """Every token once."""
        own = [answer[1] for answer in (self.gold, self.final) if answer is not None]
        return sorted({*own, *self.others})


def asked_answers(tokenizer: Any, traces: Sequence[Trace], written: Written) -> list[AskedAnswers]:
    """The answers to read on every trace. Each problem's answer is of the null once."""

    def first(answer: str | None) -> tuple[str, int] | None:
        return (answer, first_token(tokenizer, answer, written)) if answer else None

    golds = {
        trace.problem.key: first(trace.problem.answer.strip())
        for trace in traces
        if trace.problem is not None
    }
    asked = []
    for trace in traces:
        key = None if trace.problem is None else trace.problem.key
        gold = None if key is None else golds[key]
        others = (
            []
            if gold is None
            else [other[1] for other in golds.values() if other is not None and other[0] != gold[0]]
        )
        final = given_answer(trace.text)[0]
        asked.append(AskedAnswers(gold, first(final), others))
    return asked


def first_token(tokenizer: Any, answer: str, written: Written = "boxed") -> int:
    r"""The first token of an answer that is not blank, as the answer is written after its opening.

    Args:
        tokenizer: A Hugging Face tokenizer.
        answer: The answer.
        written: As in `answer_lens`. After `\boxed{` the answer's tokens are those that follow the
            tokens of `\boxed{`, or the answer's own where a token writes the brace together with
            what follows: the brace is there before the answer begins.

    Raises:
        ValueError: If no token of the answer writes anything but space.
    """

    def encoded(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    if written == "spaced":
        ids = encoded(f" {answer}")
    else:
        opening, ids = encoded(BOX), encoded(f"{BOX}{answer}")
        ids = ids[len(opening) :] if ids[: len(opening)] == opening else encoded(answer)
    strings = vocabulary(tokenizer)
    for token in ids:
        if strings[token].strip():
            return token
    raise ValueError(f"the answer {answer!r} has no token that is not blank")
