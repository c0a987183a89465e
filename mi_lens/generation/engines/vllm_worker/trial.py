"""Tries, when an engine starts, whether this model's layers can run again as we run them.

A token is read as vLLM reads it, and once more from a layer on as recycling does: by the layers one
after another, with attention made for this row, the last norm and the unembedding. A model that
does more between its layers gives other logits, and is refused.
"""

import torch
from jaxtyping import Float
from torch import Tensor

STEPS = 2  # The second token of a trial is the first that is read by itself.


def difference(again: Float[Tensor, "1 d_vocab"], logits: Float[Tensor, "1 d_vocab"]) -> str:
    """How far logits of a second reading lie from those of the first; empty if they agree."""
    spread = float(logits.float().std())
    apart = float((again.float() - logits.float()).abs().max())
    # Rounding adds up along the layers; a step left out changes logits by about their spread.
    allowed = max(32 * torch.finfo(logits.dtype).eps, 1e-3) * spread
    if apart <= allowed:
        return ""
    return (
        f"run again one after another, the layers of this model give logits that differ by "
        f"{apart:.2g} (their standard deviation is {spread:.2g}); vLLM's model does more than its "
        "layers, last norm and unembedding, so blocks cannot run again and states cannot be "
        "changed: use mi_lens.load, or another engine"
    )
