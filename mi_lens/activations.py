"""States of finished traces, read again by teacher forcing, and the states of gold answers."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mi_lens.models.backends.lookup import backend_of
from mi_lens.problems.problem import Problem
from mi_lens.problems.prompts import encode, prompt_text
from mi_lens.shards import load_activations, save_activations
from mi_lens.streaming import (
    States,
    capture_bar,
    positions_of,
    read_ids,
    read_positions,
    read_states,
    require_increasing,
    require_readable,
)
from mi_lens.traces.trace import Trace

__all__ = [
    "AnswerSite",
    "States",
    "answer_state",
    "capture",
    "load_activations",
    "next_token_uncertainty",
    "read_states",
    "save_activations",
]

AnswerSite = Literal["solution_last", "answer_last", "answer_mean"]


def capture(
    model,
    traces: Sequence[Trace],
    hook_names: Sequence[str],
    *,
    steps: Sequence[Sequence[int]] | None = None,
    batch_size: int = 8,
    progress: bool = False,
) -> list[States]:
    """States of generated steps: row t of a result is the state that emits token t.

    All of them stand in memory; `capture_into` writes them to disk as it reads.

    Args:
        model: The model whose states are wanted: a HookedTransformer or TransformerBridge.
        traces: Finished traces, generated or imported.
        hook_names: Such as "blocks.20.hook_resid_post".
        steps: For every trace the steps wanted, increasing, a row of the result each; None for
            all. A trace is not read beyond the last.
        batch_size: Traces read together; changes speed and memory, not states.
        progress: Shows a bar on a terminal's stderr.

    Returns:
        For every trace, hook name to states of shape (step, d), on the CPU in the model's dtype.

    Raises:
        ValueError: If there are no traces or hook names, a hook name does not exist, steps are not
            increasing ones of their trace, or a trace is empty, longer than the context or holds a
            token this model does not have.
    """
    require_readable(model, traces, hook_names)
    if steps is None:
        steps = [range(len(trace)) for trace in traces]
    states: list[States] = []
    with capture_bar(len(traces), progress) as bar:
        for start in range(0, len(traces), batch_size):
            batch = traces[start : start + batch_size]
            chosen = steps[start : start + batch_size]
            for trace, some in zip(batch, chosen, strict=True):
                require_increasing(f"trace {trace.id}: steps", some, len(trace))
            states += read_positions(
                model, list(map(read_ids, batch)), hook_names,
                [positions_of(trace, some) for trace, some in zip(batch, chosen, strict=True)],
            )  # fmt: skip
            bar.update(len(batch))
    return states


def answer_state(
    model,
    problem: Problem,
    hook_names: Sequence[str],
    *,
    site: AnswerSite = "solution_last",
    template: bool = False,
) -> dict[str, Float[Tensor, "d"]]:
    """The state of a problem's gold answer, h_y, at every hook name.

    Args:
        model: A HookedTransformer or TransformerBridge with its tokenizer.
        problem: Its `solution` or `answer` is read.
        hook_names: As for `capture`.
        site: "solution_last", the last token of the worked solution (paper 1's code);
            "answer_last", the last token of the answer; "answer_mean", the mean over its tokens.
        template: Reads the text as the reply to the question under the chat template; else alone,
            with the special tokens that the tokenizer puts before plain text (paper 1's code).

    Raises:
        ValueError: If the site is unknown, or asks for a solution that the problem lacks.
    """
    if site not in get_args(AnswerSite):
        raise ValueError(f"site={site!r}: expected one of {get_args(AnswerSite)}")
    text = problem.solution if site == "solution_last" else problem.answer
    if not text:
        wanted = "solution" if site == "solution_last" else "answer"
        raise ValueError(
            f"problem {problem.id} has no {wanted}; use another site than {site!r} "
            f"(expected one of {get_args(AnswerSite)})"
        )
    tokenizer = model.tokenizer
    if template:
        before = encode(tokenizer, prompt_text(tokenizer, problem.question), templated=True)
        ids = [*before, *tokenizer.encode(text, add_special_tokens=False)]
        length = len(ids) - len(before)
    else:
        ids = encode(tokenizer, text, templated=False)
        length = len(tokenizer.encode(text, add_special_tokens=False))
    (states,) = read_states(model, [ids], hook_names, [length])
    if site == "answer_mean":
        return {name: state.double().mean(0).to(state.dtype) for name, state in states.items()}
    return {name: state[-1].clone() for name, state in states.items()}


@torch.inference_mode()
def next_token_uncertainty(
    model, trace: Trace, last_states: Float[Tensor, "step d"]
) -> dict[str, Float[np.ndarray, " step"]]:
    """How sure the model is of each generated token, in bits.

    Args:
        model: A HookedTransformer or TransformerBridge.
        trace: A finished trace.
        last_states: Its states at the last block's hook_resid_post.

    Returns:
        "entropy" of the next-token distribution (at temperature 1), and "surprisal" of the token
        that was emitted.
    """
    if len(last_states) != len(trace):
        raise ValueError(f"trace {trace.id}: {len(last_states)} states for {len(trace)} steps")
    backend = backend_of(model)
    entropy, surprisal = [], []
    emitted = torch.tensor(trace.token_ids)
    for part, tokens in zip(last_states.split(256), emitted.split(256), strict=True):
        log_p = backend.unembed(model, part).double().log_softmax(-1).cpu()
        entropy.append(torch.special.entr(log_p.exp()).sum(-1) / math.log(2))
        surprisal.append(-log_p.gather(-1, tokens[:, None])[:, 0] / math.log(2))
    return {
        "entropy": torch.cat(entropy).numpy(),
        "surprisal": torch.cat(surprisal).numpy(),
    }
