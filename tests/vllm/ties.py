"""Two engines may write different tokens only where both were as good as equally likely.

Float32 sums in another order differ in their last bits. What that may change is a token whose
rival is as likely up to these bits; every other difference is an error of an engine. So at the
first difference of two traces, the step is computed again in float64: our own loop follows the
trace up to there, under the same condition, and its logits say whether there was a tie.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from mi_lens.generation.generate import generate
from mi_lens.generation.request import Request
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.protocol import Action, Intervention
from mi_lens.interventions.sampling import Sampling
from mi_lens.traces.trace import Trace

REPLACED = ("end thinking", "raise", "exit", "continue")  # What stands in a candidate's place.
TIE = 1e-4  # In logits, and in probability: far above float32's error, far below what is usual.


@dataclass(frozen=True)
class Draws:
    """What was drawn at a step: candidates one after another, and without acts on the logits.

    Attributes:
        candidates: One; two if the first was a word at which a block runs again.
        wanted: The last candidate, had nothing acted on the logits.
    """

    candidates: tuple[int, ...]
    wanted: int


@dataclass(frozen=True)
class Difference:
    """The first difference of two traces of a request.

    Attributes:
        step: At which step.
        draw: At which draw of that step.
        tokens: What one drew, and the other.
        acted_on: Whether both drew from the logits that interventions made; else from the model's.
    """

    step: int
    draw: int
    tokens: tuple[int, int]
    acted_on: bool


def draws_of(trace: Trace) -> dict[int, Draws]:
    """By step, what a trace's tokens were drawn from; steps of a prefix are none."""
    at: dict[int, dict[str, Any]] = {}
    for event in trace.events:
        if event["what"] != "steer" and "wanted" in event:
            at.setdefault(event["step"], {})[event["what"]] = event
    drawn = {}
    for step in range(trace.condition.get("prefix", 0), len(trace)):
        events = at.get(step, {})
        candidates = [trace.token_ids[step]]
        for what in REPLACED:
            if what in events:
                candidates = [events[what]["wanted"]]
        if "recycle" in events:
            recycled = events["recycle"]
            candidates = [recycled["wanted"], recycled["emitted"]]
        wanted = events["logits"]["wanted"] if "logits" in events else candidates[-1]
        drawn[step] = Draws(tuple(candidates), wanted)
    return drawn


def differences(ours: Trace, theirs: Trace) -> list[Difference]:
    """The tokens that would have to be tied; empty for equal traces.

    Raises:
        AssertionError: If something differs that no tie explains.
    """
    found, until = [], max(len(ours), len(theirs))
    one, other = draws_of(ours), draws_of(theirs)
    for step in sorted(one.keys() & other.keys()):
        a, b = one[step], other[step]
        pairs = list(zip(a.candidates, b.candidates, strict=False))
        first = next((k for k, (x, y) in enumerate(pairs) if x != y), None)
        if first is not None:
            found.append(Difference(step, first, pairs[first], True))
            until = step
            break
        assert len(a.candidates) == len(b.candidates), f"step {step}: {a} and {b}"
        tokens = ours.token_ids[step], theirs.token_ids[step]
        assert tokens[0] == tokens[1], f"step {step}: {tokens} from the same candidates"
        if a.wanted != b.wanted:
            found.append(Difference(step, len(pairs) - 1, (a.wanted, b.wanted), False))
    else:
        ends = [(len(trace), trace.stop_reason) for trace in (ours, theirs)]
        assert ends[0] == ends[1], f"they end differently: {ends}"
    a, b = acts(ours, until), acts(theirs, until)
    assert a == b, f"acts differ: {[event for event in a if event not in b]} and " + str(
        [event for event in b if event not in a]
    )
    return found


def acts(trace: Trace, until: int) -> list[dict[str, Any]]:
    """What interventions did before a step drew, but for what draws tell already."""
    told = []
    for event in trace.events:
        drawn = event["what"] in ("logits", "continue", "trial", "probe") or "wanted" in event
        drawn = drawn or event.get("on") == "choice"
        if event["step"] < until + (not drawn) and event["what"] != "logits":
            told.append(dict(event))
            for number in {"confidence", "right"} & event.keys():
                told[-1][number] = round(event[number], 2)
            if "last" in event:
                told[-1]["last"] = min(event["last"], until - drawn)
    return told


def require_ties(
    exact: Any, requests: Sequence[Request], ours: Sequence[Trace], theirs: Sequence[Trace]
) -> int:
    """How many pairs of traces differ.

    Args:
        exact: Our model in float64.
        requests: What was asked.
        ours: The traces of one engine.
        theirs: Those of the other.

    Raises:
        AssertionError: If a difference is no tie, or nothing that a tie could explain.
    """
    unequal = {}
    for i, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        try:
            if found := differences(one, other):
                unequal[i] = found
        except AssertionError as error:
            raise AssertionError(f"{_told(requests[i], i)}: {error}") from error
    if not unequal:
        return 0
    followers = {i: Follow(ours[i], found[-1]) for i, found in unequal.items()}
    replays = generate(
        exact,
        [followers[i].request(requests[i]) for i in unequal],
        batch_size=len(unequal),
        progress=False,
    )
    for (i, found), replay in zip(unequal.items(), replays, strict=True):
        last = found[-1].step
        followed = replay.token_ids[:last] == ours[i].token_ids[:last]
        assert followed, f"{_told(requests[i], i)}: float64 cannot follow {ours[i]}"
        for difference in found:
            seen = followers[i].seen[difference.step][difference.draw]
            logits = seen.logits if difference.acted_on else seen.unchanged
            assert is_tie(logits, difference.tokens, seen.sampling, seen.uniform), (
                f"{_told(requests[i], i)}: {difference} is no tie: logits "
                f"{logits[list(difference.tokens)].tolist()}, the largest {logits.max()}, "
                f"{seen.sampling}, uniform {seen.uniform}"
            )
    return len(unequal)


def _told(request: Request, index: int) -> str:
    return f"request {index}, {request.condition!r}, seed {request.seed}, {request.question[:60]!r}"


def is_tie(logits: np.ndarray, tokens: tuple[int, int], sampling: Sampling, uniform: float) -> bool:
    """Whether either of two tokens may be drawn, if logits are known up to `TIE`.

    Args:
        logits: In float64.
        tokens: The two tokens.
        sampling: How the token is drawn.
        uniform: The number in [0, 1) that decides it.
    """
    close = abs(logits[tokens[0]] - logits[tokens[1]]) < TIE
    if sampling.temperature == 0:
        return close and bool(logits.max() - logits[list(tokens)].min() < TIE)
    possible = [
        any(_distance(logits, token, how, uniform) < TIE for how in _nearby(sampling))
        for token in tokens
    ]
    return all(possible) or (close and any(possible))


def _nearby(sampling: Sampling) -> list[Sampling]:
    """Settings by which a token just misses being kept, or just does not."""
    return [
        replace(sampling, top_p=min(1.0, sampling.top_p + p), min_p=max(0.0, sampling.min_p + q))
        for p in (-TIE, 0, TIE)
        for q in (-TIE, 0, TIE)
    ]


def _distance(logits: np.ndarray, token: int, sampling: Sampling, uniform: float) -> float:
    """How far a number lies from those by which a token is drawn."""
    odds = np.exp((logits - logits.max()) / sampling.temperature)
    odds /= odds.sum()
    order = np.argsort(-odds, kind="stable")[: sampling.top_k]
    kept = order[(np.cumsum(odds[order]) - odds[order] < sampling.top_p)]
    kept = kept[odds[kept] >= sampling.min_p * odds.max()]
    place = np.flatnonzero(kept == token)
    if not len(place):
        return float("inf")
    ends = np.cumsum(odds[kept]) / odds[kept].sum()
    start = ends[place[0]] - odds[token] / odds[kept].sum()
    return float(max(start - uniform, uniform - ends[place[0]], 0.0))


@dataclass(frozen=True)
class Seen:
    """A draw as our own loop makes it.

    Attributes:
        unchanged: The model's logits.
        logits: What interventions made of them.
        sampling: How the token is drawn.
        uniform: The number that decides it.
    """

    unchanged: np.ndarray
    logits: np.ndarray
    sampling: Sampling
    uniform: float


@dataclass
class Follow:
    """Makes our own loop draw what a trace drew, up to a difference, and keeps the logits.

    Attributes:
        trace: The trace.
        until: Its draw is the first that is free.
        seen: By step, its draws.
    """

    trace: Trace
    until: Difference
    seen: dict[int, list[Seen]] = field(default_factory=dict)

    def request(self, request: Request) -> Request:
        """The request under its condition, followed."""
        condition = request.condition
        first, last = _Act(_Before(self)), _Act(_Behind(self))
        followed = Condition((first, *condition.interventions, last), condition.sampling)
        return replace(request, condition=followed)


class _Before(Action):
    """Stands before all interventions, and sees the model's logits."""

    def __init__(self, follow: Follow):
        self.follow = follow
        self.drawn = draws_of(follow.trace)

    def logits(self, logits: torch.Tensor, rows: Any) -> torch.Tensor:
        self.follow.seen.setdefault(rows[0].step, []).append(
            Seen(logits[0].double().numpy(), np.zeros(0), Sampling(), 0.0)
        )
        return logits


class _Behind(_Before):
    """Stands behind all interventions, and has the trace's token drawn."""

    def logits(self, logits: torch.Tensor, rows: Any) -> torch.Tensor:
        (row,) = rows
        draws = self.follow.seen[row.step]
        draws[-1] = replace(
            draws[-1], logits=logits[0].double().numpy(), uniform=row.uniform("token")
        )
        draw, until = len(draws) - 1, self.follow.until
        if (row.step, draw) >= (until.step, until.draw):
            return logits
        chosen = torch.full_like(logits, -torch.inf)
        chosen[0, self.drawn[row.step].candidates[draw]] = 0
        return chosen

    def sampling(self, row: Any, sampling: Sampling) -> Sampling:
        draws = self.follow.seen[row.step]
        draws[-1] = replace(draws[-1], sampling=sampling)
        return sampling


@dataclass(frozen=True)
class _Act(Intervention):
    """An action as part of a condition."""

    action: Action

    def bind(self, model: Any) -> Action:
        return self.action

    def to_json(self) -> dict[str, Any]:
        return {}
