"""How far what a lens reads lies from what the model finally says: a divergence in bits."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from mi_lens.common.float64 import in_float64
from mi_lens.common.statistics import Estimate, estimate_mean
from mi_lens.information.lenses.tuned_lens import TunedLens
from mi_lens.models.backends.lookup import backend_of
from mi_lens.models.model import Model
from mi_lens.states.by_hook import states_by_hook
from mi_lens.states.uncertainty import NUMBERS
from mi_lens.traces.trace import Trace

# Logits of states behind the last block, and log probabilities in a wider dtype.
LogProbabilities = Callable[[Float[Tensor, "rows d"]], Float[Tensor, "rows vocab"]]
# Hook name to the mean divergence of the logit lens and of the tuned lens.
Divergences = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class LensDivergence:
    """How far both lenses are from the model's final distribution at one hook name, in bits.

    Each is KL(final || lens): the mean over steps of a trace, over traces of a problem, and over
    problems. Intervals are over problems.

    Attributes:
        logit: Of the logit lens.
        tuned: Of the tuned lens.
        gain: Logit lens less tuned lens, paired by problem.
    """

    logit: Estimate
    tuned: Estimate
    gain: Estimate


@torch.inference_mode()
def lens_divergences(model: Model, lens: TunedLens, trace: Trace) -> dict[str, tuple[float, float]]:
    """The divergence of both lenses from the final distribution, over the steps of a trace.

    The final distribution is the model's own, at temperature 1: interventions on logits do not
    count. Those on states do, as they changed what the model held.

    Args:
        model: The model that the lens was trained on.
        lens: The lens.
        trace: A finished trace.

    Returns:
        Hook name to the mean over steps of KL(final || logit lens) and KL(final || tuned lens), in
        bits.

    Raises:
        ValueError: As `capture`.
    """
    unembed, size = partial(backend_of(model).unembed, model), steps_at_once(model)
    found = {}
    final: Sequence[Tensor] = []  # These states come first and stay, beside one other layer's.
    for name, states in states_by_hook(model, trace, [lens.final, *lens.hook_names]):
        if name == lens.final:
            final = states.split(size)
            continue
        totals = np.zeros(2)
        parts = zip(
            final, states.split(size), lens.translate(name, states).split(size), strict=True
        )
        for last, plain, translated in parts:
            log_final = in_float64(unembed(last)).log_softmax(-1)
            for lens_number, read in enumerate((plain, translated)):
                log_lens = in_float64(unembed(read)).log_softmax(-1)
                totals[lens_number] += float(divergence(log_final, log_lens).sum())
        logit, tuned = (totals / len(trace)).tolist()
        found[name] = (logit, tuned)
    return found


def divergence(
    log_final: Float[Tensor, "rows vocab"], log_lens: Float[Tensor, "rows vocab"]
) -> Float[Tensor, " rows"]:
    """KL(final || lens) in bits, of log probabilities."""
    nats = functional.kl_div(log_lens, log_final, reduction="none", log_target=True).sum(-1)
    return nats / math.log(2)


def steps_at_once(model: Model) -> int:
    """How many steps have logits at a time, so that memory never holds those of a whole trace."""
    return min(256, max(1, NUMBERS // model.cfg.d_vocab))


def summarized(
    divergences: Sequence[Divergences], problems: Sequence[str]
) -> dict[str, LensDivergence]:
    """The divergences of traces as estimates over problems.

    Args:
        divergences: What `lens_divergences` gives, one per trace.
        problems: The key of every trace's problem.
    """
    rows_of: dict[str, list[int]] = {}
    for row, key in enumerate(problems):
        rows_of.setdefault(key, []).append(row)
    summary = {}
    for name in divergences[0]:
        values = np.array([of_trace[name] for of_trace in divergences])
        logit, tuned = np.array([values[rows].mean(0) for rows in rows_of.values()]).T
        summary[name] = LensDivergence(
            *(estimate_mean(each) for each in (logit, tuned, logit - tuned))
        )
    return summary
