"""Unhooked baselines by Hugging Face's own `generate`."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mi_lens.generation.engines.unhooked import (
    encoded_prompt,
    refuse,
    unhooked_trace,
    until_end,
    weights_note,
)
from mi_lens.generation.request import Request
from mi_lens.models.padding import left_pad
from mi_lens.traces.trace import StopReason, Trace


def generate_with_transformers(
    checkpoint: str | Path, requests: Sequence[Request], *, batch_size: int = 8, **load: Any
) -> list[Trace]:
    """Greedy traces by Hugging Face's own `generate`, without any hook.

    Args:
        checkpoint: A folder or hub id of a causal language model with its tokenizer.
        requests: Greedy, without interventions, prefix or stop texts.
        batch_size: How many rows are decoded together, left-padded.
        **load: Passed on to `AutoModelForCausalLM.from_pretrained`, for example dtype.

    Returns:
        A trace for every request, in their order.

    Raises:
        ValueError: If a request asks for what this engine does not do, or if the model is in
            float64 and `batch_size` is above 1.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    refuse(requests, greedy_only=True)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)
    model: Any = AutoModelForCausalLM.from_pretrained(
        checkpoint, trust_remote_code=False, **load
    ).eval()
    if model.dtype == torch.float64 and batch_size > 1:
        raise ValueError(
            "in float64 Hugging Face's masks overflow at padding; use batch_size=1, or float32"
        )
    ends = model.generation_config.eos_token_id
    end_ids = set(ends if isinstance(ends, list) else [ends]) - {None}
    engine = f"transformers {version('transformers')} generate, {model.dtype}"
    engine += weights_note(checkpoint)
    traces = []
    for start in range(0, len(requests), batch_size):
        batch = requests[start : start + batch_size]
        prompts = [encoded_prompt(tokenizer, request) for request in batch]
        tokens, mask = left_pad([prompt_ids for _, prompt_ids in prompts], device=model.device)
        with torch.inference_mode():
            sequences = model.generate(
                tokens,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=max(request.max_new_tokens for request in batch),
                pad_token_id=min(end_ids, default=0),
            )
        rows = sequences[:, tokens.shape[1] :].tolist()
        for request, prompt, row in zip(batch, prompts, rows, strict=True):
            ids = until_end(row[: request.max_new_tokens], end_ids)
            reason: StopReason = "eos" if ids and ids[-1] in end_ids else "length"
            traces.append(
                unhooked_trace(str(checkpoint), engine, tokenizer, request, prompt, ids, reason)
            )
    return traces
