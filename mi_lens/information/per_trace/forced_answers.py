r"""Answers forced at cuts of a trace: the model stops thinking there and is asked.

The model reads a trace once. Then it goes from the last cut to the first: it crops the cache, and
reads the question and the answers, which are a few tokens per cut. Therefore traces are not
batched, and no prefix is read twice.

Where the question's text ends and the answer's begins, a tokenizer may write both in one token:
Qwen2's writes "\boxed{-5}" with a token "{-". The answer's end may likewise share a token with what
closes it, as "}}" in "\boxed{\frac{1}{2}}". Probabilities here are those of the text, however its
ends fall into tokens. For the beginning, the question's last token is not read if other tokens
begin with its text; the answer's first token is then one of these, and their probabilities add up
to 1. For the end, both ways of writing it are added.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_lens.common.float64 import in_float64
from mi_lens.interventions.replay import replay_of
from mi_lens.models.backends.lookup import backend_of
from mi_lens.models.model import Model
from mi_lens.problems.answers import BRACES
from mi_lens.problems.prompts import require_tokenizer
from mi_lens.problems.think_kinds import think_kind
from mi_lens.states.segments import read_in_segments
from mi_lens.traces.trace import Trace
from mi_lens.traces.vocabulary import vocabulary

ASKING = "The final answer is \\boxed{"  # behind the text that leaves the think block
CLOSING = "}"
Path = tuple[int, ...]  # The first tokens of an answer.


@dataclass(frozen=True)
class Question:
    """How a model is asked for its answer, in tokens.

    Attributes:
        tokenizer: The model's tokenizer.
        asking: The text between a cut and the answer.
        closing: The text that ends the answer.
    """

    tokenizer: Any
    asking: str
    closing: str

    def __post_init__(self):
        if not self._asked:
            raise ValueError(f"asking={self.asking!r}: expected a text of at least one token")
        if not self.closing or not self.ends:
            raise ValueError(
                f"closing={self.closing!r}: expected the beginning of some token, such as '}}'"
            )

    @classmethod
    def of(cls, model: Model, asking: str | None, closing: str) -> "Question":
        """The question; `asking` None leaves the think block as the tokenizer's kind does.

        Raises:
            ValueError: If there is nothing to ask, or no token begins with `closing`.
        """
        require_tokenizer(model.tokenizer)
        if asking is None:
            asking = think_kind(model.tokenizer).leaving + ASKING
        return cls(model.tokenizer, asking, closing)

    @cached_property
    def _asked(self) -> Path:
        return tuple(self.tokenizer.encode(self.asking, add_special_tokens=False))

    @cached_property
    def begun(self) -> str:
        """The text that the answer's first token begins with, as the question's tokens lack it."""
        last = vocabulary(self.tokenizer)[self._asked[-1]]
        shared = last and "\ufffd" not in last and len(self.tokens_from(last)) > 1
        return last if shared and len(self._asked) > 1 else ""

    @cached_property
    def beginnings(self) -> list[int]:
        """The tokens that the answer may begin with: those that begin with `begun`."""
        return self.tokens_from(self.begun)

    @property
    def read(self) -> Path:
        """The question's tokens that are read before the answer's."""
        return self._asked[:-1] if self.begun else self._asked

    @cached_property
    def ends(self) -> list[int]:
        """The tokens that begin with the closing text."""
        return self.tokens_from(self.closing)

    def tokens_from(self, beginning: str) -> list[int]:
        """The tokens that begin with a text."""
        strings = enumerate(vocabulary(self.tokenizer))
        return [token for token, string in strings if string.startswith(beginning)]

    def path(self, answer: str) -> Path:
        """The answer's tokens, as they are written behind the question.

        Raises:
            ValueError: If the tokenizer writes the question otherwise before this answer.
        """
        whole = self.tokenizer.encode(self.asking + answer, add_special_tokens=False)
        path, known = tuple(whole[len(self.read) :]), tuple(whole[: len(self.read)])
        begins = path and vocabulary(self.tokenizer)[path[0]].startswith(self.begun)
        if known != self.read or not begins or len(path) <= self.own(path):
            raise ValueError(
                f"the answer {answer!r} behind asking={self.asking!r}: this tokenizer joins both "
                "over more than one token, or the answer is empty; expected an answer, and an "
                "asking that ends with a mark such as '{' or a space"
            )
        return path

    def own(self, path: Path) -> int:
        """Place of the first token of an answer that holds something of the answer itself."""
        return int(bool(self.begun) and vocabulary(self.tokenizer)[path[0]] == self.begun)

    def answer_in(self, path: Path) -> str | None:
        """The answer that some tokens write, without its end; None if they do not end it.

        A closing text within braces that the answer opens ends nothing.
        """
        text = self.tokenizer.decode(path, skip_special_tokens=False).removeprefix(self.begun)
        end = text.find(self.closing)
        while end >= 0:
            braces = BRACES.findall(text[:end])
            if braces.count("{") <= braces.count("}"):
                return text[:end].strip()
            end = text.find(self.closing, end + 1)
        return None


class Asked:
    """A model at one cut, with the question before it. It reads answers token by token.

    The cache holds what was read last. Tokens that the next answer shares with it are not read
    again.
    """

    def __init__(self, model: Model, cache: Any, length: int, question: Question):
        self.question = question
        self._model, self._cache, self._length = model, cache, length
        self._rows: dict[Path, Float[Tensor, " vocab"]] = {}
        self._held: Path = ()

    def after(self, path: Path) -> Float[Tensor, " vocab"]:
        """Log probabilities of the token that follows these tokens of an answer."""
        if path not in self._rows:
            self._read(path)
        return self._rows[path]

    def _read(self, path: Path) -> None:
        backend, text = backend_of(self._model), (*self.question.read, *path)
        known, kept = 0, 0  # leading tokens of the answer, and of the text, that were read
        if self._rows:
            known = len(common_beginning(self._held, path)) + 1
            kept = len(self.question.read) + known - 1
        backend.crop(self._cache, self._length + kept)
        new = torch.tensor([text[kept:]], device=self._model.cfg.device)
        mask = torch.ones(1, self._length + len(text), dtype=torch.long)
        rows = len(path) + 1 - known
        logits = backend.step(self._model, new, mask, self._cache, logits_to_keep=rows)
        log_p = in_float64(logits[0]).log_softmax(-1)
        for length, row in enumerate(log_p, known):
            self._rows[path[:length]] = row if length else self._begun(row)
        self._held = path

    def _begun(self, log_p: Float[Tensor, " vocab"]) -> Float[Tensor, " vocab"]:
        """Log probabilities among the tokens that begin as the answer's first token must."""
        if not self.question.begun:
            return log_p
        allowed = torch.tensor(self.question.beginnings).to(log_p.device)
        begun = torch.full_like(log_p, -math.inf)
        begun[allowed] = log_p[allowed].log_softmax(-1)
        return begun

    def greedy(self, tokens: int) -> str | None:
        """The answer that greedy decoding writes; None if so many tokens do not end it."""
        path: Path = ()
        strings = vocabulary(self.question.tokenizer)
        while len(path) < tokens:
            token = int(self.after(path).argmax())
            if token >= len(strings) or not strings[token]:  # a special token ends the text
                return None
            path += (token,)
            answer = self.question.answer_in(path)
            if answer is not None:
                return answer
        return None

    def belief(self, answer: "ForcedAnswer") -> Float[Tensor, "3"]:
        """Bits, largest rank and first rank of an answer; see `AnswerBelief`."""
        path = answer.path
        self.after(path)
        log_p = torch.stack([self.after(path[:length]) for length in range(len(path) + 1)])
        device = log_p.device
        written = torch.tensor(path).to(device)
        chosen = log_p[:-1].gather(1, written[:, None])
        ranks = 1 + (log_p[:-1] > chosen).sum(1)
        apart, rank = _any_of(log_p[-1], torch.tensor(self.question.ends).to(device))
        total, largest = chosen.sum() + apart, torch.maximum(ranks.max(), rank)
        if answer.with_end:
            joined, rank = _any_of(log_p[-2], torch.tensor(answer.with_end).to(device))
            total = torch.logaddexp(total, chosen[:-1].sum() + joined)
            before = torch.cat([ranks[:-1], rank[None]]).max()
            largest = torch.minimum(largest, before)
        first = ranks[self.question.own(path)]
        return torch.stack([-total / math.log(2), largest.to(total), first.to(total)])


def common_beginning(a: Path, b: Path) -> Path:
    """The tokens with which both begin."""
    pairs = zip(a, b, strict=False)
    return tuple(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _any_of(
    log_p: Float[Tensor, " vocab"], tokens: Int[Tensor, "_"]
) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
    """The log probability of any of some tokens, and the rank of the likeliest of them."""
    of_tokens = log_p[tokens]
    return of_tokens.logsumexp(0), 1 + (log_p > of_tokens.max()).sum()


@dataclass(frozen=True)
class ForcedAnswer:
    """An answer in tokens.

    Attributes:
        text: The answer.
        path: Its tokens behind the question.
        with_end: The tokens that write its last token and the closing text at once.
    """

    text: str
    path: Path
    with_end: list[int]

    @classmethod
    def of(cls, question: Question, answer: str) -> "ForcedAnswer":
        """The answer as a tokenizer writes it behind a question; see `Question.path`."""
        path = question.path(answer)
        last = vocabulary(question.tokenizer)[path[-1]]
        whole = last and "\ufffd" not in last
        return cls(answer, path, question.tokens_from(last + question.closing) if whole else [])


def ask_at_cuts(
    model: Model, trace: Trace, cuts: Sequence[int], question: Question, longest: int
) -> Iterator[tuple[int, Asked]]:
    """The model at each cut of a trace, from the last to the first.

    The trace is read under the interventions that it was written under; the question is not.

    Args:
        model: The model, with its tokenizer.
        trace: The trace.
        cuts: For each cut, the number of generated tokens to keep.
        question: What is asked.
        longest: The largest number of an answer's tokens.

    Yields:
        A cut, and the model there; it is no longer of use at the next cut.

    Raises:
        ValueError: If a cut lies outside the trace, or the text does not fit the model's context.
    """
    require_room(model, trace, cuts, question, longest)
    start, last = len(trace.prompt_ids), max(cuts)
    tokens = [*trace.prompt_ids, *trace.token_ids[:last]]
    cache = read_in_segments(model, [tokens], replay=replay_of(model, trace))
    for cut in sorted(set(cuts), reverse=True):
        yield cut, Asked(model, cache, start + cut, question)


def require_room(
    model: Model, trace: Trace, cuts: Sequence[int], question: Question, longest: int
) -> None:
    """Raises a ValueError unless a trace can be asked at its cuts; see `ask_at_cuts`."""
    if not cuts or min(cuts) < 0 or max(cuts) > len(trace):
        raise ValueError(
            f"cuts {list(cuts)} of trace {trace.id}: expected 0 to {len(trace)}, and at least one"
        )
    needed = len(trace.prompt_ids) + max(cuts) + len(question.read) + longest
    if needed > model.cfg.n_ctx:
        raise ValueError(
            f"trace {trace.id} has {needed} tokens including the question and the answer, more "
            f"than the model's context {model.cfg.n_ctx}; leave the trace out"
        )
