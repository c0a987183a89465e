"""What the model expected as the next token: how surely, in bits, and how like after the answer.

The distributions stay on the model's device. A few numbers per step are copied to the host, once
per trace.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_lens.common.float64 import in_float64
from mi_lens.interventions.replay import ReadUnder, replay_of
from mi_lens.models.backends.lookup import backend_of
from mi_lens.models.model import Model
from mi_lens.states.activation_cache import require_states
from mi_lens.traces.trace import Trace

NUMBERS = 2**24  # Log probabilities at a time: 134 MB, of which up to five are in memory at once.


@torch.inference_mode()
def next_token_uncertainty(
    model: Model,
    trace: Trace,
    last_states: Float[Tensor, "step d"],
    *,
    condition: ReadUnder = "as generated",
) -> dict[str, Float[np.ndarray, " step"]]:
    """How uncertain the model is about each generated token, in bits.

    Args:
        model: A HookedTransformer or TransformerBridge.
        trace: A finished trace.
        last_states: The trace's states at the last block's hook_resid_post.
        condition: "as generated" changes the logits as the trace's interventions did. None takes
            the model's own logits.

    Returns:
        "entropy", of the next-token distribution at temperature 1, and "surprisal", of the token
        that was emitted. Each has one value per step.

    Raises:
        ValueError: If the number of states is not the number of steps.
    """
    chunks = _log_probabilities(model, trace, last_states, condition)
    return _joined([_uncertainty(log_p, tokens) for log_p, tokens in chunks])


@torch.inference_mode()
def next_token_similarity(
    model: Model,
    trace: Trace,
    last_states: Float[Tensor, "step d"],
    answer: Float[Tensor, " d"],
    *,
    condition: ReadUnder = "as generated",
) -> Float[np.ndarray, " step"]:
    """How like the next-token distribution of each step is to the one after the answer's text.

    Args:
        model: A HookedTransformer or TransformerBridge.
        trace: A finished trace.
        last_states: The trace's states at the last block's hook_resid_post.
        answer: The state at the last token of the answer's text, at the same hook name.
        condition: As in `next_token_uncertainty`. It holds for the trace, not for the answer.

    Returns:
        1 less the Jensen-Shannon divergence in bits, one value per step: 1 if the model expects
        the same tokens alike, 0 if no token is expected in both places.

    Raises:
        ValueError: If the number of states is not the number of steps.
    """
    after = _after(model, answer)
    chunks = _log_probabilities(model, trace, last_states, condition)
    return torch.cat([_similarity(log_p, after) for log_p, _ in chunks]).cpu().numpy()


@torch.inference_mode()
def next_token_explanations(
    model: Model,
    trace: Trace,
    last_states: Float[Tensor, "step d"],
    answer: Float[Tensor, " d"],
) -> dict[str, Float[np.ndarray, " step"]]:
    """What the model expects as next token, as explanations of MI; see `covariates`.

    The logits of the trace are computed once for all of them. Arguments and errors are those of
    `next_token_similarity`.

    Returns:
        "entropy", "surprisal" and "next token as after the answer", each with one value per step.
    """
    after = _after(model, answer)
    return _joined(
        [
            {
                **_uncertainty(log_p, tokens),
                "next token as after the answer": _similarity(log_p, after),
            }
            for log_p, tokens in _log_probabilities(model, trace, last_states, "as generated")
        ]
    )


def _log_probabilities(
    model: Model, trace: Trace, last_states: Float[Tensor, "step d"], condition: ReadUnder
) -> Iterator[tuple[Float[Tensor, "chunk vocab"], Int[Tensor, " chunk"]]]:
    """Log probabilities at the steps of a trace, and the emitted tokens, chunk by chunk."""
    require_states(last_states, f"trace {trace.id}: last_states", len(trace))
    backend = backend_of(model)
    emitted = torch.tensor(trace.token_ids)
    replay = replay_of(model, trace, condition)
    size = min(256, max(1, NUMBERS // model.cfg.d_vocab))
    for start in range(0, len(trace), size):
        logits = replay.logits(backend.unembed(model, last_states[start : start + size]), start)
        log_p = in_float64(logits).log_softmax(-1)
        emitted = emitted.to(log_p.device)
        yield log_p, emitted[start : start + size]


def _after(model: Model, answer: Float[Tensor, " d"]) -> Float[Tensor, "1 vocab"]:
    return in_float64(backend_of(model).unembed(model, answer[None])).softmax(-1)


def _uncertainty(
    log_p: Float[Tensor, "chunk vocab"], tokens: Int[Tensor, " chunk"]
) -> dict[str, Float[Tensor, " chunk"]]:
    return {
        "entropy": torch.special.entr(log_p.exp()).sum(-1) / math.log(2),
        "surprisal": -log_p.gather(-1, tokens[:, None])[:, 0] / math.log(2),
    }


def _similarity(
    log_p: Float[Tensor, "chunk vocab"], after: Float[Tensor, "1 vocab"]
) -> Float[Tensor, " chunk"]:
    p = log_p.exp()
    entropies = [torch.special.entr(q).sum(-1) for q in (p, after)]
    middle = torch.special.entr((p + after) / 2).sum(-1)
    return (1 - (middle - sum(entropies) / 2) / math.log(2)).clamp(0, 1)


def _joined(
    chunks: Sequence[dict[str, Float[Tensor, "_"]]],
) -> dict[str, Float[np.ndarray, " step"]]:
    joined = torch.stack([torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]])
    return dict(zip(chunks[0], joined.cpu().numpy(), strict=True))
