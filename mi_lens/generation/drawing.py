"""Candidates drawn from logits, and accepted; each engine's loop does both once a step."""

from jaxtyping import Float
from torch import Tensor

from mi_lens.generation.jobs import Job, View
from mi_lens.models.overflow import advice


def draw(view: View, logits: Float[Tensor, "rows d_vocab"]) -> None:
    """Gives every row its candidate, and the token wanted without actions on the logits.

    Raises:
        ValueError: If logits are not finite; the message names the request and the step.
    """
    plan = view.acting("logits", lambda action: action.changes_logits)
    changed = view.apply(plan, lambda action, part, rows: action.logits(part, rows), logits)
    samplings = [job.sampling_now() for job in view.jobs]
    acted_on = sorted({place for turn in plan for place in turn.places})
    candidates = view.candidates
    finite, wanted = candidates.draw(changed, samplings, logits, acted_on)
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


def accept(job: Job, end_ids: frozenset[int]) -> int:
    """Appends a row's forced token, or its candidate as the actions let it stand; gives it back."""
    row = job.row
    token = row.candidate
    assert token is not None
    if row.forced:
        row.forced.popleft()
    else:
        if job.wanted not in (None, token):
            row.note("logits", wanted=job.wanted, emitted=token)
        for action in job.actions:
            token = action.replace(row, token, end_ids)
    job.accept(token, end_ids)
    return token
