"""What the other engines share: unhooked baselines, as traces that name their engine.

A number from another engine is not a number from this one: kernels, padding and dtype differ, and
greedy decoding amplifies the difference. Every such trace carries its engine in its condition, and
`comparison.compare` names the engine among the settings that differ. Interventions need hooks, so
no other engine takes any.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mi_lens.common.provenance import content_hash
from mi_lens.generation.request import Request
from mi_lens.models.checkpoint import TEXT_FILES, find_checkpoint
from mi_lens.models.checkpoint_files import read_json
from mi_lens.models.quantization import quantization_of
from mi_lens.problems.problem import Problem
from mi_lens.problems.prompts import encode_prompt
from mi_lens.traces.think_block import written_text
from mi_lens.traces.trace import ConditionRecord, StopReason, Trace


def refuse(requests: Sequence[Request], *, greedy_only: bool) -> None:
    """Refuses requests for what an engine without hooks does not do.

    Args:
        requests: What is asked of the engine.
        greedy_only: Whether sampling and stop texts are refused too.

    Raises:
        ValueError: If there are no requests, or one has interventions or a prefix; with
            `greedy_only`, also if one samples or has stop texts.
    """
    if not requests:
        raise ValueError("no problems to generate for; expected at least one")
    for index, request in enumerate(requests):
        refused = None
        if request.condition.interventions:
            refused = "interventions, which need hooks"
        elif request.prefix:
            refused = "a prefix"
        elif greedy_only and request.condition.sampling.temperature > 0:
            refused = "sampling, whose random numbers would not be the request's own"
        elif greedy_only and request.stop:
            refused = "stop texts"
        if refused:
            raise ValueError(f"request {index} asks for {refused}; use mi_lens.generate")


def encoded_prompt(tokenizer: Any, request: Request) -> tuple[str, tuple[int, ...]]:
    """A request's prompt as text and as token ids, the same as `mi_lens.generate` reads."""
    problem = request.problem
    question = problem if isinstance(problem, str) else problem.question
    return encode_prompt(tokenizer, question, request.style)


def weights_note(checkpoint: str | Path) -> str:
    """What the name of an engine says of quantised weights: ", fp8 weights"; "" for plain ones."""
    path = find_checkpoint(checkpoint, patterns=TEXT_FILES)
    config = path / "config.json"
    method = quantization_of(config, read_json(config)) if path.is_dir() else None
    return f", {method} weights" if method else ""


def until_end(ids: list[int], end_ids: set[int]) -> list[int]:
    """Token ids up to and with the first that ends a generation; all of them if none does."""
    for step, token in enumerate(ids):
        if token in end_ids:
            return ids[: step + 1]
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
    """The trace of a generation by another engine.

    Args:
        checkpoint: The folder or hub id that the engine loaded.
        engine: The engine's name and version, which goes into the trace's condition and id.
        tokenizer: The checkpoint's.
        request: What was asked.
        prompt: From `encoded_prompt`.
        ids: Generated token ids.
        reason: Why the generation ended.
    """
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
        text=written_text(tokenizer, ids),
        stop_reason=reason,
        seed=request.seed,
        condition=condition,
        problem=request.problem if isinstance(request.problem, Problem) else None,
    )
