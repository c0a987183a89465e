"""Suppression of words: every surface form gets probability zero, or a penalty on its logit."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import isfinite

import torch
from jaxtyping import Float
from torch import Tensor

from mi_lens.common.calls import without_defaults
from mi_lens.common.checked_types import require_types
from mi_lens.common.html import table
from mi_lens.interventions.protocol import Action, Intervention
from mi_lens.interventions.row import Row
from mi_lens.interventions.words import Worded
from mi_lens.models.model import Model
from mi_lens.traces.trace import Trace
from mi_lens.traces.vocabulary import TokenSet, Words, as_words, spelled, word_ids, word_of

SHOWN = 15  # Number of tokens in a notebook's table.


@dataclass(frozen=True)
class LogitPenalty(Worded, Intervention):
    """Adds a number to the logits of words: SEAL's baseline adds -3 (paper 2).

    Attributes:
        words: Words, each with every surface form that is a single token; or token ids.
        penalty: The number to add; a negative number makes the words rarer.
        containing: Whether to include every token that contains a word, ignoring case (SEAL's rule
            for "wait" and "alternatively").
    """

    words: Words
    penalty: float = -3.0
    containing: bool = False

    def __post_init__(self):
        super().__post_init__()
        if not isfinite(self.penalty):
            raise ValueError(
                f"penalty={self.penalty}: expected a finite number; Suppress forbids words"
            )

    def bind(self, model: Model) -> Action:
        """See `Intervention.bind`."""
        ids = word_ids(model, self.words, containing=self.containing)
        return _Penalty(torch.tensor(sorted(ids)), self.penalty)

    def to_json(self):
        """See `Intervention.to_json`."""
        return asdict(self)


@dataclass(frozen=True)
class Suppress(Worded, Intervention):
    """Gives words the probability zero (paper 1; NoWait, arXiv 2506.08343).

    `Suppress("@nowait", containing=True, sparing=["Ohio"])` is NoWait as its text says it: every
    token that contains one of its keywords, but for those that its authors took out by hand, of
    which they name this one. The rule also takes " know" for "now" and " many" for "any"; without
    `containing`, only the keywords' own surface forms are suppressed.

    Attributes:
        words: Words, each with every surface form that is a single token; or token ids.
        containing: Whether to include every token that contains a word, ignoring case.
        sparing: With `containing`, words whose own surface forms are not suppressed.
    """

    words: Words
    containing: bool = False
    sparing: Sequence[str] = ()

    def __post_init__(self):
        super().__post_init__()
        given = (self.sparing,) if isinstance(self.sparing, str) else self.sparing
        object.__setattr__(self, "sparing", tuple(given))
        require_types(self, ("containing", "sparing"))
        if self.sparing and not self.containing:
            raise ValueError(
                f"sparing={self.sparing!r} without containing: only the words' own surface forms "
                "are suppressed then; leave out the words to be spared, or set containing=True"
            )

    def bind(self, model: Model) -> Action:
        """See `Intervention.bind`."""
        ids = word_ids(model, self.words, containing=self.containing, sparing=self.sparing)
        return _Penalty(torch.tensor(sorted(ids)), float("-inf"))

    def to_json(self):
        """See `Intervention.to_json`."""
        return without_defaults(asdict(self), {"containing": False, "sparing": ()})


class _Penalty(Action):
    needs_tokens = False

    def __init__(self, ids: Tensor, penalty: float):
        self.ids, self.penalty = ids, penalty
        self._biases: dict[tuple[torch.device, torch.dtype, int], Tensor] = {}

    def logits(
        self, logits: Float[Tensor, "rows d_vocab"], rows: Sequence[Row]
    ) -> Float[Tensor, "rows d_vocab"]:
        """See `Action.logits`."""
        return logits + self._bias(logits)

    def _bias(self, logits: Float[Tensor, "rows d_vocab"]) -> Float[Tensor, " d_vocab"]:
        """What is added to each logit; it is made once, and stays on the device."""
        key = logits.device, logits.dtype, logits.shape[-1]
        if key not in self._biases:
            with torch.inference_mode(False):
                bias = torch.zeros(logits.shape[-1], dtype=logits.dtype)
                bias[self.ids] = self.penalty
                self._biases[key] = bias.to(logits.device)
        return self._biases[key]


@dataclass(frozen=True)
class Evasion:
    """What a model wrote where it would have written a suppressed word.

    Attributes:
        prevented: How often a suppressed word would have been written.
        instead: What was written instead (a word, or punctuation) to how often.
        respelled: Suppressed word to how often it is in the text nevertheless, spelled from several
            tokens.
    """

    prevented: int
    instead: dict[str, int]
    respelled: dict[str, int]

    def __repr__(self) -> str:
        most = ", ".join(f"{word[:20]!r} {count}" for word, count in list(self.instead.items())[:5])
        return (
            f"Evasion({self.prevented:,} words prevented; instead {most or 'nothing'}; respelled "
            f"{sum(self.respelled.values()):,} times)"
        )

    def _repr_html_(self) -> str:
        shown = list(self.instead.items())[:SHOWN]
        caption = (
            f"{self.prevented:,} suppressed words prevented; {len(shown)} of {len(self.instead)} "
            "tokens written instead"
        )
        respelled = table(list(self.respelled.items()), ("respelled", "times"))
        written = table(shown, ("written instead", "times"), caption)
        return f"{written}\n{respelled}" if self.respelled else written


def evasion(tokenizer, traces: Iterable[Trace], words: Words) -> Evasion:
    """How traces generated under `Suppress(words)` evaded it (paper 1 reports "But wait").

    Args:
        tokenizer: The model's tokenizer. None takes the texts alone, which say only how often each
            word stands there nevertheless.
        traces: Traces with the events of the suppression: the token wanted, and the token written.
        words: The suppressed words.

    Raises:
        ValueError: If there is no tokenizer, and a trace has events or words are token ids.
    """
    given = as_words(words) if tokenizer is not None else spelled(words)
    if tokenizer is None:
        if ids := [word for word in given if not isinstance(word, str)]:
            raise ValueError(f"token ids {ids[:5]} without a tokenizer; expected words as text")
        keys, suppressed = {word_of(str(word)) for word in given}, frozenset()
    else:
        names = [w if isinstance(w, str) else tokenizer.decode([w]) for w in given]
        token_set = TokenSet.of(tokenizer, names)
        keys, suppressed = set(token_set.words), token_set.ids
    instead: Counter[str] = Counter()
    respelled: Counter[str] = Counter()
    for trace in traces:
        if tokenizer is not None:
            for event in trace.events:
                if event["what"] == "logits" and event["wanted"] in suppressed:
                    token = tokenizer.decode([event["emitted"]])
                    instead[word_of(token) or token] += 1
        elif trace.events:
            raise ValueError(
                f"trace {trace.id} has events, whose tokens only a tokenizer can read; pass that "
                "of the trace's model"
            )
        for piece in trace.text.split():
            if word_of(piece) in keys:
                respelled[word_of(piece)] += 1
    return Evasion(instead.total(), dict(instead.most_common()), dict(respelled))
