r"""The first token of answers, as every layer and step would have it: by logit or by tuned lens.

A first token is not an answer. Where every digit is a token, 7031 and 7221 share theirs, and a
model that writes numbers expects some digit at many steps. So the same is read of other problems'
answers, which is what chance gives.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mi_lens.common.float64 import in_float64
from mi_lens.information.lenses.asked_answers import AskedAnswers, Written, asked_answers
from mi_lens.information.lenses.divergence import steps_at_once
from mi_lens.information.lenses.tuned_lens import ALL_BLOCKS, TunedLens
from mi_lens.models.backends.lookup import backend_of
from mi_lens.models.fingerprint import model_fingerprint
from mi_lens.models.hook_names import HookNames, match_hook_names
from mi_lens.models.model import Model
from mi_lens.states.by_hook import states_by_hook
from mi_lens.states.segments import widths
from mi_lens.states.trace_batches import require_readable
from mi_lens.states.uncertainty import Unembed
from mi_lens.traces.trace import Trace

Values = dict[str, Float[np.ndarray, " step"]]  # By hook name.


@dataclass(frozen=True)
class TokenReading:
    """What a lens says of one answer's first token.

    Attributes:
        answer: The answer.
        token: Id of its first token.
        text: That token as text.
        probability: The token's probability, one value per step, by hook name.
        rank: How many tokens are likelier, plus 1, one value per step, by hook name.
    """

    answer: str
    token: int
    text: str
    probability: Values
    rank: Values


@dataclass(frozen=True)
class OtherAnswers:
    """What the lens says of the first tokens of other problems' answers: the null.

    Attributes:
        answers: Number of other answers.
        shared: How many of them begin with the gold answer's first token.
        probability: Mean over the other answers of their first token's probability, one value per
            step, by hook name.
        rank: Mean over the other answers of its rank.
        p_values: For each step alone, the share of answers, the gold one among them, whose
            probability is at least the gold answer's.
    """

    answers: int
    shared: int
    probability: Values
    rank: Values
    p_values: Values


@dataclass(frozen=True)
class AnswerLens:
    """The first tokens of a trace's answers, by hook name and step.

    Attributes:
        trace: The trace's id.
        lens: "logit" or "tuned".
        gold: The problem's gold answer; None if it has none.
        final: The answer that the trace itself gives; None if it gives none.
        others: Other problems' gold answers; None if there are none, or no gold answer.
    """

    trace: str
    lens: Literal["logit", "tuned"]
    gold: TokenReading | None
    final: TokenReading | None
    others: OtherAnswers | None

    def __repr__(self) -> str:
        read = {"gold": self.gold, "final": self.final}
        tokens = ", ".join(f"{k} {each.text!r}" for k, each in read.items() if each is not None)
        others = 0 if self.others is None else self.others.answers
        return f"AnswerLens({self.lens} lens, {tokens or 'no answer'}, {others} other answers)"


@torch.inference_mode()
def answer_lens(
    model: Model,
    traces: Sequence[Trace],
    lens: TunedLens | None = None,
    *,
    hook_names: HookNames | None = None,
    written: Written = "boxed",
    allow_overlap: bool = False,
) -> list[AnswerLens]:
    r"""Probability and rank of answers' first tokens at every step and hook name.

    The states of one hook name are read at a time, and a chunk of steps has logits at a time, so
    that no tensor of all steps, layers and vocabulary items exists.

    Args:
        model: A HookedTransformer or TransformerBridge with its tokenizer.
        traces: Finished traces. The gold answers of the others' problems are the null of each.
        lens: A tuned lens of this model; None is the logit lens.
        hook_names: Where to read, as in `capture`; None takes every block's output, or those of the
            lens and the last one.
        written: How the answer is written whose first token is read: "boxed", after `\boxed{`, as
            in a forced answer; "spaced", after a space, as in running text. A blank token is no
            first token.
        allow_overlap: Whether traces of problems that the lens was trained on are read.

    Returns:
        One reading per trace. `plot_map(reading.gold.probability)` draws it.

    Raises:
        ValueError: As `capture`; if the lens is of another model, was trained on the traces'
            problems, or lacks a hook name; if a hook name does not hold the residual stream; or
            if an answer has no token that is not blank.
    """
    if written not in get_args(Written):
        raise ValueError(f"written={written!r}: expected one of {get_args(Written)}")
    if lens is not None:
        lens.check_model(model_fingerprint(model))
        if not allow_overlap:
            lens.check_unused(trace.problem for trace in traces if trace.problem is not None)
    names = _hook_names(model, lens, hook_names)
    require_readable(model, traces, names)
    unembed, size = partial(backend_of(model).unembed, model), steps_at_once(model)
    readings = []
    for trace, asked in zip(traces, asked_answers(model.tokenizer, traces, written), strict=True):
        values = {}
        for name, states in states_by_hook(model, trace, names):
            read = states if lens is None else lens.translate(name, states)
            values[name] = _of_tokens(unembed, read, asked.tokens, size)
        kind = "logit" if lens is None else "tuned"
        readings.append(_reading(trace, kind, model.tokenizer, asked, values))
    return readings


def _of_tokens(
    unembed: Unembed, states: Float[Tensor, "step d"], tokens: Sequence[int], size: int
) -> Float[np.ndarray, "2 token step"]:
    """Probabilities and ranks of tokens where states are read as the last block's.

    Args:
        unembed: Gives the logits of states.
        states: The states.
        tokens: Token ids.
        size: Number of steps that have logits at a time.
    """
    found = []
    for part in states.split(size):
        logits = in_float64(unembed(part))
        columns = logits[:, torch.tensor(tokens, device=logits.device, dtype=torch.long)]
        probability = (columns - logits.logsumexp(-1, keepdim=True)).exp()
        # Token by token: a comparison of all at once would be as large as so many logits.
        likelier = [(logits > column[:, None]).sum(-1) for column in columns.T]
        rank = torch.stack(likelier, 1) + 1 if likelier else torch.zeros_like(columns)
        found.append(torch.stack([probability, rank.to(probability)]))
    return torch.cat(found, 1).transpose(1, 2).cpu().numpy()


def _reading(
    trace: Trace,
    lens: Literal["logit", "tuned"],
    tokenizer: Any,
    asked: AskedAnswers,
    values: dict[str, Float[np.ndarray, "2 token step"]],
) -> AnswerLens:
    """The readings of one trace from the values of all tokens that are asked for."""
    places = {token: place for place, token in enumerate(asked.tokens)}

    def one(answer: tuple[str, int] | None) -> TokenReading | None:
        if answer is None:
            return None
        text, token = answer
        probability, rank = (
            {name: of_hook[kind, places[token]] for name, of_hook in values.items()}
            for kind in (0, 1)
        )
        return TokenReading(text, token, tokenizer.decode([token]), probability, rank)

    gold = one(asked.gold)
    others = None
    if gold is not None and asked.others:
        others = _others(gold, [places[token] for token in asked.others], places, values)
    return AnswerLens(trace.id, lens, gold, one(asked.final), others)


def _others(
    gold: TokenReading,
    rows: list[int],
    places: dict[int, int],
    values: dict[str, Float[np.ndarray, "2 token step"]],
) -> OtherAnswers:
    """The null of a gold answer; `rows` has the place of every other answer's token."""
    probability, rank = (
        {name: of_hook[kind, rows].mean(0) for name, of_hook in values.items()} for kind in (0, 1)
    )
    p_values = {
        name: (1 + (of_hook[0, rows] >= gold.probability[name]).sum(0)) / (1 + len(rows))
        for name, of_hook in values.items()
    }
    return OtherAnswers(len(rows), rows.count(places[gold.token]), probability, rank, p_values)


def _hook_names(model: Model, lens: TunedLens | None, patterns: HookNames | None) -> list[str]:
    """Where to read; all must hold the residual stream."""
    if patterns is None:
        patterns = ALL_BLOCKS if lens is None else [*lens.hook_names, lens.final]
    names = match_hook_names(model, patterns)
    for name, width in widths(model, names).items():
        if width != model.cfg.d_model:
            raise ValueError(
                f"hook name {name!r} holds {width} numbers per position and the residual stream "
                f"{model.cfg.d_model}: the final norm cannot read it; give hook names such as "
                "'blocks.0.hook_resid_post'"
            )
    return names
