"""What the model expected as the next token: how surely, in bits, and how like after the answer.

The distributions stay on the model's device. A few numbers per step are copied to the host, once
per trace.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_lens.common.float64 import in_float64
from mi_lens.interventions.replay import ReadUnder, Replay, replay_of
from mi_lens.models.backends.lookup import backend_of
from mi_lens.models.model import Model
from mi_lens.states.activation_cache import require_states
from mi_lens.traces.trace import Trace

# The logits of residual states behind the last block: final norm and unembedding.
Unembed = Callable[[Float[Tensor, "rows d"]], Float[Tensor, "rows vocab"]]
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
    replay = replay_of(model, trace, condition)
    chunks = _log_probabilities(_unembedding(model), replay, last_states)
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
    unembed, replay = _unembedding(model), replay_of(model, trace, condition)
    after = _after(unembed, answer)
    chunks = _log_probabilities(unembed, replay, last_states)
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
    return explanations_by(_unembedding(model), replay_of(model, trace), last_states, answer)


@torch.inference_mode()
def explanations_by(
    unembed: Unembed,
    replay: Replay,
    last_states: Float[Tensor, "step d"],
    answer: Float[Tensor, " d"],
) -> dict[str, Float[np.ndarray, " step"]]:
    """What `next_token_explanations` returns, by whatever unembeds the states.

    Args:
        unembed: Gives the logits of states at the last block's output.
        replay: The trace, with what acted on its logits.
        last_states: See `next_token_similarity`.
        answer: See `next_token_similarity`.
    """
    after = _after(unembed, answer)
    return _joined(
        [
            {
                **_uncertainty(log_p, tokens),
                "next token as after the answer": _similarity(log_p, after),
            }
            for log_p, tokens in _log_probabilities(unembed, replay, last_states)
        ]
    )


def _unembedding(model: Model) -> Unembed:
    return partial(backend_of(model).unembed, model)


def _log_probabilities(
    unembed: Unembed, replay: Replay, last_states: Float[Tensor, "step d"]
) -> Iterator[tuple[Float[Tensor, "chunk vocab"], Int[Tensor, " chunk"]]]:
    """Log probabilities at the steps of a trace, and the emitted tokens, chunk by chunk."""
    trace = replay.trace
    require_states(last_states, f"trace {trace.id}: last_states", len(trace))
    emitted = torch.tensor(trace.token_ids)
    size = min(256, max(1, NUMBERS // replay.model.cfg.d_vocab))
    for start in range(0, len(trace), size):
        logits = replay.logits(unembed(last_states[start : start + size]), start)
        log_p = in_float64(logits).log_softmax(-1)
        emitted = emitted.to(log_p.device)
        yield log_p, emitted[start : start + size]


def _after(unembed: Unembed, answer: Float[Tensor, " d"]) -> Float[Tensor, "1 vocab"]:
    return in_float64(unembed(answer[None])).softmax(-1)


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
