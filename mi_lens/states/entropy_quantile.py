"""How uncertain a model usually is: a quantile of its next-token entropies."""

from collections.abc import Sequence

import numpy as np

from mi_lens.models.hook_names import last_block_output
from mi_lens.models.model import Model
from mi_lens.states.capture import capture
from mi_lens.states.uncertainty import next_token_uncertainty
from mi_lens.traces.trace import Trace


def entropy_quantile(
    model: Model, traces: Sequence[Trace], share: float, *, batch_size: int = 8
) -> float:
    """The entropy, in bits, that a share of a model's steps lie below; for `Gate(entropy=...)`.

    Entropies are those that a gate compares: of the next-token distribution at temperature 1, of
    the logits before interventions change them. States are read as the traces were generated. Steps
    of a prefix are left out.

    Args:
        model: A HookedTransformer or TransformerBridge with its tokenizer.
        traces: Finished traces of the model, best of problems that are not evaluated.
        share: From 0 to 1; .8 gives the entropy above which the most uncertain fifth lies.
        batch_size: Number of traces read together.

    Raises:
        ValueError: If the share is out of range, or the traces have no step that the model wrote.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share={share}: expected from 0 to 1, such as 0.8")
    name, entropies = last_block_output(model), []
    for start in range(0, len(traces), batch_size):
        batch = traces[start : start + batch_size]
        for trace, states in zip(batch, capture(model, batch, [name]), strict=True):
            told = next_token_uncertainty(model, trace, states[name], condition=None)
            entropies.append(told["entropy"][trace.condition.get("prefix", 0) :])
    if not sum(map(len, entropies)):
        raise ValueError(f"{len(traces)} traces without a step; expected some that a model wrote")
    return float(np.quantile(np.concatenate(entropies), share))
