"""Unhooked baselines from other engines, as traces that say which engine made them.

A number from another engine is not a number from this one: kernels, padding and dtype differ, and
greedy decoding amplifies it. Every trace made here carries its engine in its condition, and
`comparison.compare` names the engine among the settings that differ. Interventions need hooks, so
none of these takes any.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mi_lens.common.provenance import content_hash
from mi_lens.generation.request import Request
from mi_lens.problems.problem import Problem
from mi_lens.problems.prompts import encode_prompt
from mi_lens.traces.trace import ConditionRecord, StopReason, Trace


def refuse(requests: Sequence[Request], *, greedy_only: bool) -> None:
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


def encoded_prompt(tokenizer: Any, request: Request) -> tuple[str, tuple[int, ...]]:
    problem = request.problem
    question = problem if isinstance(problem, str) else problem.question
    return encode_prompt(tokenizer, question, request.style)


def until_end(ids: list[int], end_ids: set[int]) -> list[int]:
    for i, token in enumerate(ids):
        if token in end_ids:
            return ids[: i + 1]
    return ids


def unhooked_trace(
    checkpoint: str,
    engine: str,
    tokenizer: Any,
    request: Request,
    prompt: tuple[str, tuple[int, ...]],
    ids: list[int],
    reason: StopReason,
) -> Trace:
    text, prompt_ids = prompt
    condition = ConditionRecord(
        **request.condition.to_json(),
        engine=engine,
        max_new_tokens=request.max_new_tokens,
        style=request.style,
        stop=list(request.stop),
        prefix=0,
    )
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
