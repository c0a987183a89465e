"""Refuses models with processed weights, whose residual stream differs from the trained one."""

from mi_lens.models.model import Model


def require_unprocessed(model: Model) -> None:
    """Refuse a model whose norms were folded into the weights next to them.

    Folding and centring keep the logits but change the residual stream, and with it everything
    that is measured there.

    Raises:
        ValueError: If the weights were processed.
    """
    kind = model.cfg.normalization_type
    if kind in ("LNPre", "RMSPre") or getattr(model, "_weights_processed", False):
        raise ValueError(
            f"this model's weights were processed (normalization_type {kind!r}), which changes its "
            "residual stream; load it with mi_lens.load, or with "
            "HookedTransformer.from_pretrained_no_processing"
        )
