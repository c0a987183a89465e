"""Candidates drawn from logits, and accepted; each engine's loop does both once a step."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mi_lens.common.on_device import on_device
from mi_lens.generation.candidates import Otherwise
from mi_lens.generation.jobs import Job, View
from mi_lens.interventions.row import CHANCE, Row
from mi_lens.interventions.sampling import Sampling, entropy_bits
from mi_lens.models.overflow import advice


def draw(view: View, logits: Float[Tensor, "rows d_vocab"]) -> None:
    """Gives every row its candidate, and the token wanted without actions on the logits.

    Raises:
        ValueError: If logits are not finite; the message names the request and the step.
    """
    _measure_entropy(view, logits)
    plan = view.acting("logits", lambda action: action.changes_logits)
    changed = view.apply(plan, lambda action, part, rows: action.logits(part, rows), logits)
    samplings = [job.sampling_now() for job in view.jobs]
    otherwise = _otherwise(view, samplings, logits.device)
    acted_on = sorted({place for turn in plan for place in turn.places})
    candidates = view.candidates
    _measure_trials(view.rows, changed)
    finite, wanted = candidates.draw(changed, samplings, logits, acted_on, otherwise)
    if not all(finite):
        place = finite.index(False)
        raise ValueError(
            f"request {view.jobs[place].index}: the logits at step {view.rows[place].step} "
            f"hold {changed[place].amax().item()} as their largest value; {advice(logits.dtype)}"
        )
    for row, token in zip(view.rows, candidates.ids, strict=True):
        row.candidate = row.forced[0] if row.forced else token
    for place, token in wanted.items():
        view.jobs[place].wanted = token


def _measure_entropy(view: View, logits: Float[Tensor, "rows d_vocab"]) -> None:
    """Measures the entropy of logits on which nothing acted yet, where an action needs it."""
    plan = view.acting("entropy", lambda action: action.measures_entropy)
    if places := tuple(sorted({place for turn in plan for place in turn.places})):
        whole = len(places) == len(view.jobs)
        part = logits if whole else logits[on_device(places, logits.device)]
        for place, entropy in zip(places, entropy_bits(part).unbind(), strict=True):
            view.rows[place].measuring["entropy"] = entropy


def _otherwise(view: View, samplings: Sequence[Sampling], device: torch.device) -> Otherwise | None:
    """The samplings behind gates on which the device decides; None if they are no others."""
    opened = list(samplings)
    plan = view.acting("gated sampling", lambda action: action.gates_sampling)
    for turn in plan:
        for place in turn.places:
            opened[place] = view.jobs[place].sampling_now(turn.action)
    if opened == list(samplings):
        return None
    where = torch.zeros(len(opened), dtype=torch.bool, device=device)
    for turn in plan:
        index = on_device(tuple(turn.places), device)
        where = where.index_copy(0, index, turn.action.open_now(turn.rows, device))
    return Otherwise(opened, where)


def _measure_trials(rows: Sequence[Row], logits: Float[Tensor, "rows d_vocab"]) -> None:
    """Measures how sure the next token of each trial is."""
    trying = [place for place, row in enumerate(rows) if row.trial is not None and not row.forced]
    if trying:
        chosen = logits[on_device(tuple(trying), logits.device)].float()
        for place, number in zip(trying, chosen.amax(-1) - chosen.logsumexp(-1), strict=True):
            rows[place].measuring[CHANCE] = number


def accept(job: Job, end_ids: frozenset[int]) -> int:
    """Appends a row's forced token, or its candidate as the actions let it stand; gives it back."""
    row = job.row
    token, read = row.candidate, row.step
    assert token is not None
    if row.forced:
        row.forced.popleft()
    else:
        if job.wanted not in (None, token):
            row.note("logits", wanted=job.wanted, emitted=token)
        token = _replaced(job, token, end_ids)
    row.numbers_before, row.numbers, row.measuring = row.numbers, {}, {}
    job.taken_back = read - row.step
    job.accept(token, end_ids)
    return token


def _replaced(job: Job, token: int, end_ids: frozenset[int]) -> int:
    """A candidate as the actions let it stand, each in turn.

    A trial is its action's own; when it ends, the actions behind that one see what follows. None
    sees a text that is forced.
    """
    row, actions = job.row, job.actions
    if row.trial is not None:
        by = row.trial.by
        first = next(place for place, action in enumerate(actions) if action.innermost is by)
        actions = actions[first:]
    for action in actions:
        token = action.replace(row, token, end_ids)
        if row.trial is not None or row.forced:
            break
    return token
