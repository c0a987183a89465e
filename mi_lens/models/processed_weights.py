"""Whether a model's weights were processed, after which its residual stream is another one."""

from typing import Any


def require_unprocessed(model: Any) -> None:
    """Refuse a model whose norms were folded into the weights beside them.

    Folding and centring leave the logits as they are and change the residual stream, and with it
    all that is measured there.

    Raises:
        ValueError: The weights were processed.
    """
    kind = model.cfg.normalization_type
    if kind in ("LNPre", "RMSPre") or getattr(model, "_weights_processed", False):
        raise ValueError(
            f"this model's weights were processed (normalization_type {kind!r}), which changes its "
            "residual stream; load it with mi_lens.load, or with "
            "HookedTransformer.from_pretrained_no_processing"
        )
