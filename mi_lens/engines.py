"""Unhooked baselines from other engines, as traces that say which engine made them.

A number from another engine is not a number from this one: kernels, padding and dtype differ, and
greedy decoding amplifies it. Every trace made here carries its engine in its condition, and
`comparison.compare` names the engine among the settings that differ. Interventions need hooks, so
none of these takes any.
"""

import importlib.util
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mi_lens.common.provenance import content_hash
from mi_lens.generation import Request
from mi_lens.models.padding import left_pad
from mi_lens.problems.problem import Problem
from mi_lens.problems.prompts import encode, prompt_text
from mi_lens.traces.trace import StopReason, Trace


def generate_with_transformers(
    checkpoint: str | Path, requests: Sequence[Request], *, batch_size: int = 8, **load: Any
) -> list[Trace]:
    """Greedy traces by Hugging Face's own `generate`, without any hook.

    Args:
        checkpoint: A folder or hub id of a causal language model with its tokenizer.
        requests: Greedy, without interventions, prefix or stop texts.
        batch_size: Rows decoded together, left-padded.
        **load: To `AutoModelForCausalLM.from_pretrained`, as dtype or device_map.

    Raises:
        ValueError: If a request asks for what this engine does not do, or for padding in float64.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _refuse(requests, greedy_only=True)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, **load).eval()
    if model.dtype == torch.float64 and batch_size > 1:
        raise ValueError(
            "in float64 Hugging Face's masks overflow at padding; use batch_size=1, or float32"
        )
    ends = model.generation_config.eos_token_id
    end_ids = set(ends if isinstance(ends, list) else [ends]) - {None}
    engine = f"transformers {version('transformers')} generate, {model.dtype}"
    prompts = [_prompt(tokenizer, request) for request in requests]
    traces = []
    for start in range(0, len(requests), batch_size):
        some = range(start, min(start + batch_size, len(requests)))
        tokens, mask = left_pad([prompts[i][1] for i in some], device=model.device)
        with torch.inference_mode():
            out = model.generate(
                tokens, attention_mask=mask, do_sample=False,
                max_new_tokens=max(requests[i].max_new_tokens for i in some),
                pad_token_id=min(end_ids, default=0),
            )  # fmt: skip
        for i, row in zip(some, out[:, tokens.shape[1] :].tolist(), strict=True):
            ids = _until_end(row[: requests[i].max_new_tokens], end_ids)
            reason: StopReason = "eos" if ids and ids[-1] in end_ids else "length"
            traces.append(
                _trace(str(checkpoint), engine, tokenizer, requests[i], prompts[i], ids, reason)
            )
    return traces


def generate_with_vllm(
    checkpoint: str | Path, requests: Sequence[Request], **load: Any
) -> list[Trace]:
    """Traces by vLLM's offline API, where it is installed.

    Args:
        checkpoint: A folder or hub id.
        requests: Without interventions and prefix; sampling settings and stop texts are passed on,
            but vLLM's random numbers are its own.
        **load: To `vllm.LLM`.

    Raises:
        ImportError: If vLLM is not installed.
        ValueError: If a request asks for what this engine does not do.
    """
    if importlib.util.find_spec("vllm") is None:
        raise ImportError("vLLM is not installed; pip install vllm, or use another engine")
    import vllm  # pyright: ignore[reportMissingImports]

    _refuse(requests, greedy_only=False)
    model = vllm.LLM(model=str(checkpoint), **load)
    tokenizer = model.get_tokenizer()
    engine = f"vllm {vllm.__version__}"
    prompts = [_prompt(tokenizer, request) for request in requests]
    settings = []
    for request in requests:
        sampling = request.condition.sampling
        settings.append(
            vllm.SamplingParams(
                temperature=sampling.temperature, top_p=sampling.top_p,
                top_k=-1 if sampling.top_k is None else sampling.top_k, min_p=sampling.min_p,
                seed=request.seed, max_tokens=request.max_new_tokens,
                stop=[stop for stop in request.stop if isinstance(stop, str)] or None,
                stop_token_ids=[stop for stop in request.stop if isinstance(stop, int)] or None,
                include_stop_str_in_output=True,
            )
        )  # fmt: skip
    outputs = model.generate([{"prompt_token_ids": list(ids)} for _, ids in prompts], settings)
    traces = []
    for request, prompt, output in zip(requests, prompts, outputs, strict=True):
        made = output.outputs[0]
        reason: StopReason = "length"
        if made.finish_reason == "stop":
            reason = "stop" if made.stop_reason is not None else "eos"
        traces.append(
            _trace(
                str(checkpoint), engine, tokenizer, request, prompt, list(made.token_ids), reason
            )
        )
    return traces


def _refuse(requests: Sequence[Request], *, greedy_only: bool) -> None:
    if not requests:
        raise ValueError("no problems to generate for; expected at least one")
    for index, request in enumerate(requests):
        wrong = None
        if request.condition.interventions:
            wrong = "interventions, which need hooks"
        elif request.prefix:
            wrong = "a prefix"
        elif greedy_only and request.condition.sampling.temperature > 0:
            wrong = "sampling, whose random numbers would not be the request's own"
        elif greedy_only and request.stop:
            wrong = "stop texts"
        if wrong:
            raise ValueError(f"request {index} asks for {wrong}; use mi_lens.generate")


def _prompt(tokenizer: Any, request: Request) -> tuple[str, tuple[int, ...]]:
    problem = request.problem
    question = problem if isinstance(problem, str) else problem.question
    text = prompt_text(tokenizer, question, request.style)
    return text, tuple(encode(tokenizer, text, templated=request.style != "raw"))


def _until_end(ids: list[int], end_ids: set[int]) -> list[int]:
    for i, token in enumerate(ids):
        if token in end_ids:
            return ids[: i + 1]
    return ids


def _trace(
    checkpoint: str,
    engine: str,
    tokenizer: Any,
    request: Request,
    prompt: tuple[str, tuple[int, ...]],
    ids: list[int],
    reason: StopReason,
) -> Trace:
    text, prompt_ids = prompt
    condition = {
        **request.condition.to_json(),
        "engine": engine,
        "max_new_tokens": request.max_new_tokens,
        "style": request.style,
        "stop": list(request.stop),
        "prefix": 0,
    }
    return Trace(
        id=content_hash([engine, checkpoint, prompt_ids, condition, request.seed]),
        model=Path(checkpoint).name,
        prompt=text,
        prompt_ids=prompt_ids,
        token_ids=tuple(ids),
        text=tokenizer.decode(ids, skip_special_tokens=True),
        stop_reason=reason,
        seed=request.seed,
        condition=condition,
        problem=request.problem if isinstance(request.problem, Problem) else None,
    )
