"""Unhooked baselines by vLLM's offline API."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mi_lens.generation.engines.unhooked import encoded_prompt, refuse, unhooked_trace
from mi_lens.generation.request import Request
from mi_lens.traces.trace import StopReason, Trace


def generate_with_vllm(
    checkpoint: str | Path, requests: Sequence[Request], **load: Any
) -> list[Trace]:
    """Traces by vLLM's offline API, where it is installed.

    Args:
        checkpoint: A folder or hub id.
        requests: Without interventions and prefix; sampling settings and stop texts are passed on,
            but vLLM's random numbers are its own.
        **load: Passed on to `vllm.LLM`.

    Returns:
        A trace for every request, in their order.

    Raises:
        ImportError: If vLLM is not installed.
        ValueError: If a request asks for what this engine does not do.
    """
    try:
        import vllm  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ImportError(
            "vLLM is not installed; pip install vllm, or use another engine"
        ) from None

    refuse(requests, greedy_only=False)
    model = vllm.LLM(model=str(checkpoint), **load)
    tokenizer = model.get_tokenizer()
    engine = f"vllm {vllm.__version__}"
    prompts = [encoded_prompt(tokenizer, request) for request in requests]
    settings = []
    for request in requests:
        sampling = request.condition.sampling
        settings.append(
            vllm.SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=-1 if sampling.top_k is None else sampling.top_k,
                min_p=sampling.min_p,
                seed=request.seed,
                max_tokens=request.max_new_tokens,
                stop=[stop for stop in request.stop if isinstance(stop, str)] or None,
                stop_token_ids=[stop for stop in request.stop if isinstance(stop, int)] or None,
                include_stop_str_in_output=True,
            )
        )
    outputs = model.generate([{"prompt_token_ids": list(ids)} for _, ids in prompts], settings)
    traces = []
    for request, prompt, output in zip(requests, prompts, outputs, strict=True):
        completion = output.outputs[0]
        reason: StopReason = "length"
        if completion.finish_reason == "stop":
            reason = "stop" if completion.stop_reason is not None else "eos"
        ids = list(completion.token_ids)
        traces.append(
            unhooked_trace(str(checkpoint), engine, tokenizer, request, prompt, ids, reason)
        )
    return traces
