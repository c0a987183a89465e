"""Longer reasoning: where a generation would end its thinking, a word makes it continue.

Thinking-token test-time scaling (TTTS, paper 1) continues from a thinking token while
budget is left; s1's budget forcing continues from "Wait".
"""

from collections.abc import Sequence, Set
from dataclasses import asdict, dataclass

from mi_lens.interventions.protocol import Action, Intervention
from mi_lens.interventions.row import Row
from mi_lens.interventions.words import Worded
from mi_lens.models.model import Model
from mi_lens.problems.think_kinds import knows_marks, think_kind
from mi_lens.traces.think_block import closing_ids
from mi_lens.traces.vocabulary import Words, spelled


@dataclass(frozen=True)
class Continue(Worded, Intervention):
    r"""Replaces the token that would end the thinking by a word, and continues from there.

    Two kinds of tokens are replaced: one that closes the think block, such as "</think>", while it
    is open; and a token that ends the generation at any time. Nothing is replaced if fewer than
    `reserve` tokens of the budget would be left.

    Attributes:
        words: Texts to continue from, used in turn; after the last comes the first again.
        times: Maximum number of replacements; None means as long as the budget lasts.
        before: Text that precedes the word.
        reserve: Tokens of the budget kept for the answer.
    """

    words: Words
    times: int | None = None
    before: str = "\n\n"
    reserve: int = 64

    def __post_init__(self):
        super().__post_init__()
        if any(not isinstance(word, str) or not word for word in spelled(self.words)):
            raise ValueError(
                f"words={self.words!r}: expected texts to continue from, not token ids and not ''"
            )
        if self.times is not None and self.times < 1:
            raise ValueError(f"times={self.times}: expected at least 1, or None for no limit")
        if self.reserve < 1:
            raise ValueError(f"reserve={self.reserve}: expected at least 1 token")

    def bind(self, model: Model) -> Action:
        """See `Intervention.bind`.

        Raises:
            ValueError: If the model closes its think block by several tokens: the first of them
                are written before anything tells that it ends.
        """
        encode, kind = model.tokenizer.encode, think_kind(model.tokenizer)
        closings = closing_ids(model.tokenizer)
        if not closings and knows_marks(model.tokenizer, kind):
            raise ValueError(
                f"Continue replaces the token that closes the think block, and this tokenizer "
                f"({type(model.tokenizer).__name__}) writes {kind.closings[-1]!r} as several; to "
                "put off the end of the text only, load the model with think='none'"
            )
        texts = [
            encode(f"{self.before}{word}", add_special_tokens=False) for word in spelled(self.words)
        ]
        return _Continue(texts, closings, self.times, self.reserve)

    def to_json(self):
        """See `Intervention.to_json`."""
        return asdict(self)


class _Continue(Action):
    def __init__(
        self,
        texts: Sequence[Sequence[int]],
        closings: Set[int],
        times: int | None,
        reserve: int,
    ):
        self.texts, self.closings = texts, closings
        self.times, self.reserve = times, reserve

    def replace(self, row: Row, candidate: int, end_ids: frozenset[int]) -> int:
        """See `Action.replace`."""
        closes = candidate in self.closings and row.thinking()
        if not closes and candidate not in end_ids:
            return candidate
        done = sum(event["what"] == "continue" for event in row.events)
        text = self.texts[done % len(self.texts)]
        if done == self.times or row.limit - row.step - len(text) < self.reserve:
            return candidate
        return row.write("continue", candidate, text)
