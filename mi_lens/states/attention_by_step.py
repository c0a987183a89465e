"""How much attention every step of a trace pays to earlier words, layer by layer."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_lens.common.float64 import in_float64
from mi_lens.interventions.replay import replay_of
from mi_lens.models.hook_names import resolve_hook_names
from mi_lens.models.model import Model
from mi_lens.states.attention_to_words import READERS
from mi_lens.states.segments import read_in_segments
from mi_lens.states.trace_batches import read_ids, require_readable
from mi_lens.traces.trace import Trace
from mi_lens.traces.vocabulary import Words, word_ids


@torch.inference_mode()
def attention_by_step(
    model: Model, trace: Trace, words: Words
) -> dict[str, Float[np.ndarray, " step"]]:
    """The share of attention that every step pays to the words of a set, mean over heads.

    The weights that the position which emits step t gives to all occurrences of the words in the
    trace so far are added up, its own token among them; occurrences in the prompt do not count. The
    share grows with the number of occurrences. `attention_to_words` compares words with ordinary
    words at the same places, and says which heads attend to them.

    Args:
        model: A HookedTransformer or TransformerBridge with its tokenizer.
        trace: A finished trace.
        words: The set of words.

    Returns:
        A mapping from "blocks.N.attn.hook_pattern" of every layer to one share per step, 0 to 1.

    Raises:
        ValueError: If no single token writes a word, or the trace has none of the words.
    """
    names = resolve_hook_names(
        model, [f"blocks.{n}.attn.hook_pattern" for n in range(model.cfg.n_layers)]
    )
    require_readable(model, [trace], names)
    chosen = word_ids(model, words)
    ids, first = read_ids(trace), len(trace.prompt_ids)
    wanted = torch.tensor([i >= first and token in chosen for i, token in enumerate(ids)])
    if not wanted.any():
        raise ValueError(
            f"trace {trace.id}: none of the words {words} is in it before its last token; give "
            "words that it writes"
        )
    shares = torch.zeros(len(names), len(ids), dtype=torch.float64)

    def hooks(start: int, stop: int) -> list[tuple[str, Callable[..., None]]]:
        add = partial(_add, shares=shares, wanted=wanted, start=start)
        return [(name, partial(add, layer=layer)) for layer, name in enumerate(names)]

    replay = replay_of(model, trace)
    read_in_segments(model, [ids], hooks, length=READERS, replay=replay)
    return dict(zip(names, shares[:, first - 1 :].numpy(), strict=True))


def _add(
    pattern: Float[Tensor, "1 head reader pos"],
    hook: Any,
    *,
    shares: Float[Tensor, "layer all_pos"],
    wanted: Bool[Tensor, " all_pos"],
    start: int,
    layer: int,
) -> None:
    """Writes down what a segment's readers pay to the words before them."""
    readers, seen = pattern.shape[2:]
    paid = pattern[0][:, :, wanted[:seen].to(pattern.device)]
    shares[layer, start : start + readers] = in_float64(paid).sum(-1).mean(0).cpu()
