"""What a steering vector would do to the next token, layer by layer, by gradients: no generation.

Venhoff et al. (arXiv 2506.18167) choose the layer to steer by attribution patching: the effect of a
vector on the next token is taken from gradients at the unsteered states. Here alpha times the
vector is added at the boundaries that open a trace's thoughts, as `Steer` does, and derivatives are
taken by alpha, at alpha = 0, for all places at once.

The divergence KL(unsteered || steered) of next-token distributions p has its minimum there, so its
first derivative is 0 for every vector. Its second is the variance under p of the logits' derivative
by alpha, so that

    KL = alpha^2 / 2 Var_p(d logits / d alpha) + O(alpha^3)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from mi_lens.interventions.vector import SteeringVector
from mi_lens.models.backends.lookup import backend_of
from mi_lens.models.hook_names import HEADS, head_of, last_block_output, resolve_hook_names
from mi_lens.models.model import Model
from mi_lens.models.one_thread import only_thread
from mi_lens.models.padding import left_pad
from mi_lens.states.trace_batches import require_readable
from mi_lens.traces.thoughts import (
    SEAL,
    THOUGHT_CLASSES,
    Thought,
    ThoughtClass,
    ThoughtRule,
    split_thoughts,
)
from mi_lens.traces.trace import Trace


@dataclass(frozen=True)
class Attribution:
    """What a vector does to the tokens that open thoughts, per unit of alpha.

    Attributes:
        log_p: For each class that the traces hold, the derivative by alpha of the log probability,
            in nats, of a thought's first token: the mean over the class's thoughts.
        kl: KL / alpha^2 between the next-token distributions at boundaries, in nats, to second
            order in alpha: the mean over boundaries.
        boundaries: Number of boundaries.
    """

    log_p: dict[ThoughtClass, float]
    kl: float
    boundaries: int

    @property
    def contrast(self) -> float | None:
        """How much more the vector favours the openings of execution than those of other thoughts.

        The derivative for execution less the mean of those for reflection and transition; None
        where the traces lack one or the other.
        """
        others = [value for kind, value in self.log_p.items() if kind != "execution"]
        if "execution" not in self.log_p or not others:
            return None
        return self.log_p["execution"] - sum(others) / len(others)


def steering_attribution(
    model: Model,
    traces: Sequence[Trace],
    vectors: Mapping[str, SteeringVector],
    *,
    rule: ThoughtRule = SEAL,
) -> dict[str, Attribution]:
    """What each vector does to the next tokens at boundaries, from gradients.

    A trace is read at once, without its interventions, and memory grows with its length and the
    number of blocks. Time is that of one pass forward and about one backward per vector.

    Args:
        model: A HookedTransformer or TransformerBridge with its tokenizer. It should be in float32
            or wider; in bfloat16 the derivatives are as coarse as the states.
        traces: Traces with thoughts; others are skipped.
        vectors: Vectors by name, such as `extract_steering_vectors` returns.
        rule: Assigns a class to every thought.

    Raises:
        ValueError: If there are no vectors; if a hook name does not exist or a vector does not fit
            there; or if there are no thoughts, or a trace cannot be read.
    """
    if not vectors:
        raise ValueError("no vectors; expected at least one")
    places = {name: head_of(vector.hook_name) for name, vector in vectors.items()}
    resolve_hook_names(model, list(dict.fromkeys(hook for hook, _ in places.values())))
    require_readable(model, traces, [last_block_output(model)])
    slopes: dict[ThoughtClass, list[Tensor]] = {}
    curvatures: list[Tensor] = []
    for trace in traces:
        thoughts = split_thoughts(model.tokenizer, trace, rule)
        thoughts = [thought for thought in thoughts if thought.start < len(trace)]
        if thoughts:
            by_thought, by_boundary = _derivatives(model, trace, thoughts, list(vectors.values()))
            curvatures.append(by_boundary)
            for thought, slope in zip(thoughts, by_thought, strict=True):
                slopes.setdefault(thought.thought_class, []).append(slope)
    if not curvatures:
        raise ValueError(
            f"no thoughts in {len(traces)} traces; expected reasoning with blank lines between "
            "thoughts inside the think block"
        )
    kl = torch.cat(curvatures, dim=1)
    log_p: dict[ThoughtClass, Tensor] = {
        kind: torch.stack(slopes[kind]).mean(0) for kind in THOUGHT_CLASSES if kind in slopes
    }
    return {
        name: Attribution(
            {kind: float(of_class[i]) for kind, of_class in log_p.items()},
            float(kl[i].mean()),
            kl.shape[1],
        )
        for i, name in enumerate(vectors)
    }


def _derivatives(
    model: Model, trace: Trace, thoughts: Sequence[Thought], vectors: Sequence[SteeringVector]
) -> tuple[Float[Tensor, "thought vector"], Float[Tensor, "vector boundary"]]:
    """Slopes of the first tokens' log probabilities, and half the variance of logits' slopes."""
    starts = sorted({thought.start for thought in thoughts})  # Some share a boundary.
    positions = [len(trace.prompt_ids) - 1 + start for start in starts]
    ids = [*trace.prompt_ids, *trace.token_ids[: starts[-1]]]
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # The others have no second derivative.
        alphas = torch.zeros(len(vectors), device=model.cfg.device, requires_grad=True)
        logits = _logits(model, ids, positions, vectors, alphas).double()
        weights = torch.zeros_like(logits, requires_grad=True)
        # Linear in the weights: its derivative by a weight is the logit's derivative by alpha.
        (slopes,) = torch.autograd.grad(logits, alphas, weights, create_graph=True)
        by_logit = torch.stack(
            [torch.autograd.grad(slope, weights, retain_graph=True)[0] for slope in slopes]
        )
    p = logits.detach().softmax(-1)
    mean = (p * by_logit).sum(-1, keepdim=True)
    curvature = (p * (by_logit - mean) ** 2).sum(-1) / 2
    rows = [starts.index(thought.start) for thought in thoughts]
    tokens = [trace.token_ids[thought.start] for thought in thoughts]
    return (by_logit - mean)[:, rows, tokens].T.cpu(), curvature.cpu()


def _logits(
    model: Model,
    ids: Sequence[int],
    positions: Sequence[int],
    vectors: Sequence[SteeringVector],
    alphas: Float[Tensor, " vector"],
) -> Float[Tensor, "boundary d_vocab"]:
    """Next-token logits at positions, with alpha times each vector added there."""
    here = torch.zeros(1, len(ids), 1, dtype=torch.bool, device=model.cfg.device)
    here[0, positions] = True
    kept: list[Tensor] = []
    hooks: list[tuple[str, Any]] = [
        (head_of(vector.hook_name)[0], partial(_added, vector, alpha, here))
        for vector, alpha in zip(vectors, alphas, strict=True)
    ]
    last = last_block_output(model)
    hooks.append((last, lambda states, hook: kept.append(states[0, positions])))
    tokens, mask = left_pad([ids], device=model.cfg.device)
    with only_thread(model), model.hooks(fwd_hooks=hooks):
        backend_of(model).forward(model, tokens, mask, logits_to_keep=0)
    return backend_of(model).unembed(model, kept[0])


def _added(
    vector: SteeringVector,
    alpha: Float[Tensor, ""],
    here: Bool[Tensor, "1 pos 1"],
    states: Float[Tensor, "1 pos *d"],
    hook: Any,
) -> Float[Tensor, "1 pos *d"]:
    """States with alpha times a vector added at some positions; the vector is not trained."""
    name, head = head_of(vector.hook_name)
    flat = states.flatten(2) if HEADS.fullmatch(name) else states
    width, first = len(vector.vector), 0 if head is None else head * len(vector.vector)
    fits = flat.shape[-1] == width if head is None else first + width <= flat.shape[-1]
    if flat.ndim != 3 or not fits:
        raise ValueError(
            f"hook name {vector.hook_name!r} holds {' x '.join(map(str, states.shape[2:]))} "
            f"numbers per position, and its vector {width}"
        )
    shift = torch.zeros(flat.shape[-1], dtype=flat.dtype, device=flat.device)
    shift[first : first + width] = vector.vector.to(flat)
    added = flat + torch.where(here.to(flat.device), alpha.to(flat) * shift, 0)
    return added.reshape(states.shape)
