r"""Ends the thinking once a trial answer is sure: DEER's early exit (arXiv 2504.15895).

Where a thought would begin, the model is made to give its answer. The answer's confidence is the
geometric mean, over its tokens, of the largest next-token probability. Above the threshold the
thinking ends there, and the model writes its reply. Otherwise the trial is taken back, and the
generation goes on as if there had been none: the same tokens, by the same random numbers.
"""

from collections.abc import Sequence, Set
from dataclasses import asdict, dataclass
from math import exp
from typing import Any, Literal

from mi_lens.common.checked_types import require_at_least, require_types
from mi_lens.interventions.protocol import Action, Intervention
from mi_lens.interventions.row import CHANCE, Row
from mi_lens.models.model import Model
from mi_lens.traces.think_block import leaving_text, require_lines
from mi_lens.traces.vocabulary import Words, as_words, word_ids

FINAL = "\n**Final Answer**\n\\boxed{"  # That of DEER's code, which stops before the bracket.


@dataclass(frozen=True)
class EarlyExit(Intervention):
    r"""Ends the thinking where a trial answer is sure (DEER).

    A trial answer is decoded greedily, under the other interventions on states and logits. It ends
    with the bracket that closes the one opened by `final`, with a line end, with a token that ends
    a text, or after `final_tokens`. An empty answer never ends the thinking. Tokens of a trial
    count neither in the trace nor in the budget. Each trial is an event "trial" of the trace:
    "passes" is how many positions it read, its cost; "confidence" is rounded to 4 digits.

    Attributes:
        threshold: The thinking ends if the confidence is above it; at 1 it never is.
        at: Words before which the answer is tried, each with every surface form; or "boundary",
            which tries it behind each blank line. Only inside the think block.
        final: The text that asks for the answer.
        final_tokens: The most tokens of a trial answer.
        trials: The most trials of a generation; None for no limit.
        ending: The text that ends the thinking. None takes that of the model's think block, such as
            "\n</think>\n\n".
    """

    threshold: float = 0.95
    at: Literal["boundary"] | Words = ("Wait",)
    final: str = FINAL
    final_tokens: int = 20
    trials: int | None = 10
    ending: str | None = None

    def __post_init__(self):
        if not isinstance(self.at, str):
            object.__setattr__(self, "at", as_words(self.at))
        elif self.at != "boundary":
            raise ValueError(f"at={self.at!r}: expected 'boundary' or a list of words")
        require_types(self, ("threshold", "final", "final_tokens", "trials", "ending"))
        require_at_least(self, final_tokens=1, trials=1)
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold={self.threshold}: expected a probability, 0 to 1")
        for name in ("final", "ending"):
            if getattr(self, name) == "":
                raise ValueError(f"{name}='': expected a text")

    def bind(self, model: Model) -> Action:
        """See `Intervention.bind`.

        Raises:
            ValueError: If no single token writes a word of `at`, the tokenizer writes no line ends,
                or the model marks no thinking and `ending` is None.
        """
        if self.at == "boundary":
            require_lines(model.tokenizer)
        ids = None if isinstance(self.at, str) else word_ids(model, self.at)
        texts = self.final, self.ending or leaving_text(model.tokenizer)
        encode = model.tokenizer.encode
        final, ending = (encode(text, add_special_tokens=False) for text in texts)
        return _EarlyExit(self, ids, final, ending, model.cfg)

    def to_json(self):
        """See `Intervention.to_json`."""
        at = self.at if isinstance(self.at, str) else list(as_words(self.at))
        return asdict(self) | {"at": at}


class _EarlyExit(Action):
    tries = True

    def __init__(
        self,
        settings: EarlyExit,
        ids: Set[int] | None,
        final: Sequence[int],
        ending: Sequence[int],
        cfg: Any,
    ):
        self.settings, self.ids, self.cfg = settings, ids, cfg
        self.final, self.ending = final, ending
        self.open = settings.final.count("{") - settings.final.count("}")

    def replace(self, row: Row, candidate: int, end_ids: frozenset[int]) -> int:
        """See `Action.replace`."""
        if row.trial is None:
            begins = self.begins(row, candidate, end_ids)
            return row.attempt(self, candidate, self.final) if begins else candidate
        row.trial.chances.append(row.numbers[CHANCE])
        tokens = [*row.token_ids[row.trial.start + len(self.final) :], candidate]
        text = row.tokenizer.decode([token for token in tokens if token not in end_ids])
        end = self.end_of(text)
        at_most = len(tokens) >= self.settings.final_tokens
        if end is None and not at_most and candidate not in end_ids:
            return candidate
        read = row.step - row.trial.start
        trial = row.take_back()
        confidence = exp(sum(trial.chances) / len(trial.chances))
        answer = text[:end].strip()
        row.note("trial", answer=answer, confidence=round(confidence, 4), passes=float(read))
        if answer and confidence > self.settings.threshold:
            return row.write("exit", trial.held, self.ending)
        return trial.held

    def begins(self, row: Row, candidate: int, end_ids: frozenset[int]) -> bool:
        """Whether a trial begins in a candidate's place."""
        wanted = row.at_boundary(row.step) if self.ids is None else candidate in self.ids
        if not wanted or not row.step or candidate in end_ids or not row.thinking():
            return False
        done = [event["what"] for event in row.events]
        most = self.settings.trials
        if "exit" in done or (most is not None and done.count("trial") >= most):
            return False
        length = len(row.prompt_ids) + row.step + len(self.final) + self.settings.final_tokens
        return length < self.cfg.n_ctx

    def end_of(self, text: str) -> int | None:
        """The place of the bracket or line end that ends a trial answer; None without one."""
        depth = self.open
        for place, character in enumerate(text):
            depth += (character == "{") - (character == "}")
            if character == "\n" or (self.open > 0 and depth == 0):
                return place
        return None
