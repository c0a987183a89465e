r"""Slow thinking first, then fast: AlphaOne's schedule (arXiv 2505.24863).

The alpha moment is alpha times the mean length of a model's thinking, in tokens. Before it, a
thinking word is written after a blank line by chance: with a probability that falls linearly from
p_0 to 0 at the moment. From the moment on, a thinking word that the model would write ends the
thinking instead. The released code does so everywhere; here only an open think block is touched.
"""

from collections.abc import Sequence, Set
from dataclasses import asdict, dataclass

from mi_lens.common.checked_types import require_at_least, require_types
from mi_lens.interventions.protocol import Action, Intervention
from mi_lens.interventions.row import Row
from mi_lens.interventions.words import Worded
from mi_lens.models.model import Model
from mi_lens.traces.think_block import leaving_text, require_lines
from mi_lens.traces.vocabulary import Words, spelled, word_ids


@dataclass(frozen=True)
class Schedule(Worded, Intervention):
    r"""Raises thinking words before the alpha moment, and ends the thinking at them after it.

    Attributes:
        alpha_moment: The alpha moment, in generated tokens. The paper takes alpha = 1.4; its code
            takes mean lengths of 2500 tokens for a model of 1.5B, 3150 of 7B and 4800 of 32B.
        words: Thinking words. The first is the text that is written before the moment. Every
            surface form of each of them ends the thinking after it.
        start: The probability p_0; at token t before the moment T it is p_0 (1 - t / T).
        ending: The text that ends the thinking. None takes the mark of the model's think block,
            such as "</think>".
    """

    alpha_moment: int
    words: Words = ("Wait",)
    start: float = 1.0
    ending: str | None = None

    def __post_init__(self):
        super().__post_init__()
        require_types(self, ("alpha_moment", "start", "ending"))
        require_at_least(self, alpha_moment=1)
        if not 0 < self.start <= 1:
            raise ValueError(f"start={self.start}: expected a probability above 0, at most 1")
        first = spelled(self.words)[0]
        if not isinstance(first, str) or not first:
            raise ValueError(
                f"words={self.words!r}: the first is written before the alpha moment; expected a "
                "text, such as 'Wait', not a token id and not ''"
            )
        if self.ending == "":
            raise ValueError(
                "ending='': expected a text that ends the thinking, such as '</think>'"
            )

    def bind(self, model: Model) -> Action:
        """See `Intervention.bind`.

        Raises:
            ValueError: If no single token writes a word, the tokenizer writes no line ends, or the
                model marks no thinking and `ending` is None.
        """
        require_lines(model.tokenizer)
        ending = self.ending or leaving_text(model.tokenizer).strip()
        encode = model.tokenizer.encode
        return _Schedule(
            self,
            word_ids(model, self.words),
            encode(str(spelled(self.words)[0]), add_special_tokens=False),
            encode(ending, add_special_tokens=False),
        )

    def to_json(self):
        """See `Intervention.to_json`."""
        return asdict(self)


class _Schedule(Action):
    def __init__(
        self, settings: Schedule, ids: Set[int], raised: Sequence[int], ending: Sequence[int]
    ):
        self.moment, self.start = settings.alpha_moment, settings.start
        self.ids, self.raised, self.ending = ids, raised, ending

    def replace(self, row: Row, candidate: int, end_ids: frozenset[int]) -> int:
        """See `Action.replace`."""
        if row.step >= self.moment:
            acts = candidate in self.ids and row.thinking()
            return row.write("end thinking", candidate, self.ending) if acts else candidate
        if not row.step or not row.at_boundary(row.step) or not row.thinking():
            return candidate
        probability = self.start * (1 - row.step / self.moment)
        if row.uniform("schedule") >= probability:
            return candidate
        return row.write("raise", candidate, self.raised)
