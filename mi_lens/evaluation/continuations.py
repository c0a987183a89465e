"""What continuations of a trace need: a prompt that is the trace's, a way to grade, fresh seeds."""

from typing import Any

from mi_lens.interventions.sampling import Sampling
from mi_lens.problems.grading.grader import grade
from mi_lens.problems.problem import Problem
from mi_lens.problems.prompts import PromptStyle, encode_prompt
from mi_lens.traces.trace import Trace


def require_samples(sampling: Sampling, samples: int) -> None:
    """Raises a ValueError if continuations would be greedy, or fewer than two."""
    if sampling.temperature == 0:
        raise ValueError("temperature=0: continuations would all be the same; expected above 0")
    if samples < 2:
        raise ValueError(f"samples={samples}: expected at least 2 continuations per step")


def require_continuable(tokenizer: Any, trace: Trace, style: PromptStyle) -> Problem:
    """The problem of a trace that can be continued and graded.

    Raises:
        ValueError: If the trace has no problem, nothing to grade it by, or a prompt of another
            style.
    """
    problem = trace.require_problem("to grade continuations by")
    grade(trace.text, problem)  # refuses a problem without a gold answer before generation begins
    require_prompt(tokenizer, trace, problem, style)
    return problem


def require_prompt(tokenizer: Any, trace: Trace, problem: Problem, style: PromptStyle) -> None:
    """Raises a ValueError if a trace has another prompt than the style gives."""
    if encode_prompt(tokenizer, problem.question, style)[1] != trace.require_steps().prompt_ids:
        raise ValueError(
            f"trace {trace.id} has another prompt than style={style!r} gives with this tokenizer; "
            "pass the style of the trace"
        )


def fresh_seeds(first: int, samples: int, own: int) -> list[int]:
    """Seeds that count up from the first and skip a trace's own, which would write it again."""
    return [seed for seed in range(first, first + samples + 1) if seed != own][:samples]
