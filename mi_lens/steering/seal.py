"""SEAL's steering vectors: differences between mean states at the boundaries that open thoughts.

SEAL (arXiv 2504.07986) steers by S = mean(execution) - mean(reflection and transition). The means
are over 500 correct and 500 incorrect traces of problems that no evaluation uses.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_lens.interventions.vector import SteeringVector
from mi_lens.models.fingerprint import model_fingerprint
from mi_lens.models.hook_names import by_head
from mi_lens.models.model import Model
from mi_lens.problems.problem import Problem
from mi_lens.states.capture import capture
from mi_lens.states.segments import States
from mi_lens.traces.thoughts import (
    SEAL,
    THOUGHT_CLASSES,
    Thought,
    ThoughtClass,
    ThoughtRule,
    split_thoughts,
)
from mi_lens.traces.trace import Trace

# The first mean minus each of the others. Classes whose letters are adjacent are pooled, with equal
# weight per thought. "E-RT" is SEAL's S; "E-R" and "E-T" are ablations. "E-R-T" is what EasySteer
# calls merged. It is not a contrast: it also subtracts what all states have in common. "R-ET" is
# ReflCtrl's direction of reflection (arXiv 2512.13979).
Recipe = Literal["E-RT", "E-R", "E-T", "E-R-T", "R-ET"]
# Says of a trace and of a thought of it whether the thought counts.
Only = Callable[[Trace, Thought], bool]
LETTERS: dict[str, ThoughtClass] = {"E": "execution", "R": "reflection", "T": "transition"}


@dataclass(frozen=True)
class ThoughtStates:
    """A trace's thoughts, and the states at the boundaries that open them.

    Attributes:
        problem: The trace's problem.
        thoughts: The thoughts in order, at least one.
        states: Hook name to states, one row per thought, on the CPU in the model's dtype. The heads
            of an `attn.hook_z` have a name each, "blocks.3.attn.hook_z[2]".
    """

    problem: Problem
    thoughts: list[Thought]
    states: States


def states_of_thoughts(
    model: Model,
    traces: Sequence[Trace],
    hook_names: Sequence[str],
    *,
    rule: ThoughtRule = SEAL,
    only: Only | None = None,
    batch_size: int = 8,
) -> Iterator[ThoughtStates]:
    """Reads the states of thoughts, trace by trace, and skips traces without thoughts.

    Args:
        model: A HookedTransformer or TransformerBridge with its tokenizer.
        traces: Traces with their problems.
        hook_names: All are read in one pass; hook names or patterns.
        rule: Assigns a class to every thought.
        only: Says of a trace and a thought of it whether the thought counts; None counts all. One
            is `BoundaryStability.is_stable`.
        batch_size: Number of traces read together. Only their states at boundaries are kept.

    Raises:
        ValueError: If a trace has no problem.
    """
    for trace in traces:
        trace.require_problem("to tell what its thoughts were read from")
    split_traces = [
        (
            trace,
            [t for t in split_thoughts(model.tokenizer, trace, rule) if not only or only(trace, t)],
        )
        for trace in traces
    ]
    thoughtful = [(trace, thoughts) for trace, thoughts in split_traces if thoughts]
    for start in range(0, len(thoughtful), batch_size):
        batch = thoughtful[start : start + batch_size]
        # Thoughts share a boundary if one token holds several blank lines.
        wanted = [sorted({thought.boundary_step for thought in ts}) for _, ts in batch]
        captured = capture(
            model, [trace for trace, _ in batch], hook_names, steps=wanted, batch_size=batch_size
        )
        for (trace, thoughts), steps, states in zip(batch, wanted, captured, strict=True):
            problem = trace.require_problem("to tell what its thoughts were read from")
            rows = [steps.index(thought.boundary_step) for thought in thoughts]
            by_name: States = {}
            for name, state in states.items():
                by_name |= by_head(name, state[rows], model.cfg.n_heads)
            yield ThoughtStates(problem, thoughts, by_name)


def extract_steering_vectors(
    model: Model,
    traces: Sequence[Trace],
    hook_names: Sequence[str],
    *,
    rule: ThoughtRule = SEAL,
    recipe: Recipe = "E-RT",
    only: Only | None = None,
    batch_size: int = 8,
) -> dict[str, SteeringVector]:
    """Computes SEAL's steering vector, or an ablation of it, at every hook name.

    SEAL's layer 20 is the input of block 20: `blocks.20.hook_resid_pre`, which equals
    `blocks.19.hook_resid_post`.

    Sums are in float64. Vectors have the model's dtype, but at least float32. For the reliability,
    problems go alternately to two halves; all traces of a problem are in the same half.

    Args:
        model: A HookedTransformer or TransformerBridge with its tokenizer.
        traces: Finished traces with their problems; SEAL takes 500 correct and 500 incorrect ones.
        hook_names: All are read in one pass; hook names or patterns. At "blocks.3.attn.hook_z"
            there is a vector for every head, "blocks.3.attn.hook_z[2]".
        rule: Assigns a class to every thought.
        recipe: "E-RT" is mean(execution) - mean(reflection and transition together), SEAL's S;
            "E-R" is mean(execution) - mean(reflection); "E-T" is mean(execution) -
            mean(transition); "E-R-T" subtracts both means (EasySteer's merged vector); "R-ET" is
            mean(reflection) - mean(execution and transition together), ReflCtrl's direction.
        only: See `states_of_thoughts`.
        batch_size: See `states_of_thoughts`.

    Raises:
        ValueError: If the recipe is unknown, or needs a class that has no thoughts.
    """
    if recipe not in get_args(Recipe):
        raise ValueError(f"recipe {recipe!r}: expected one of {get_args(Recipe)}")
    half_of: dict[str, int] = {}
    problems: dict[str, str] = {}
    counts = torch.zeros(2, len(THOUGHT_CLASSES), dtype=torch.int64)
    sums: dict[str, Tensor] = {}
    dtypes: dict[str, torch.dtype] = {}
    for part in states_of_thoughts(
        model, traces, hook_names, rule=rule, only=only, batch_size=batch_size
    ):
        key = part.problem.key
        half = half_of.setdefault(key, len(half_of) % 2)
        problems[key] = part.problem.id
        index = torch.tensor([THOUGHT_CLASSES.index(t.thought_class) for t in part.thoughts])
        counts[half] += torch.bincount(index, minlength=len(THOUGHT_CLASSES))
        for name, states in part.states.items():
            if name not in sums:
                sums[name] = torch.zeros(2, len(THOUGHT_CLASSES), states.shape[1]).double()
                dtypes[name] = torch.promote_types(states.dtype, torch.float32)
            sums[name][half].index_add_(0, index, states.double())
    by_class = dict(zip(THOUGHT_CLASSES, counts.sum(0).tolist(), strict=True))
    _require_thoughts(by_class, recipe, rule, len(traces))
    fingerprint = model_fingerprint(model)
    return {
        name: SteeringVector(
            hook_name=name,
            vector=_difference(recipe, halves.sum(0), counts.sum(0)).to(dtypes[name]),
            model=fingerprint,
            recipe=recipe,
            rule=rule.name,
            counts=by_class,
            problems=problems,
            reliability=_reliability(recipe, halves, counts),
        )
        for name, halves in sums.items()
    }


def _require_thoughts(
    counts: dict[ThoughtClass, int], recipe: Recipe, rule: ThoughtRule, traces: int
) -> None:
    for group in recipe.split("-"):
        if not sum(counts[LETTERS[letter]] for letter in group):
            wanted = " or ".join(LETTERS[letter] for letter in group)
            raise ValueError(
                f"no {wanted} thoughts by rule {rule.name!r} in {traces} traces (counts: "
                f"{counts}); recipe {recipe!r} needs them: add traces, or use another rule or "
                "recipe"
            )


def _difference(
    recipe: Recipe, sums: Float[Tensor, "thought_class d"], counts: Int[Tensor, "thought_class"]
) -> Float[Tensor, "d"]:
    """The recipe's first mean minus the others; not finite where a class has no thoughts."""
    means = []
    for group in recipe.split("-"):
        rows = [THOUGHT_CLASSES.index(LETTERS[letter]) for letter in group]
        means.append(sums[rows].sum(0) / counts[rows].sum())
    return means[0] - torch.stack(means[1:]).sum(0)


def _reliability(
    recipe: Recipe,
    sums: Float[Tensor, "2 thought_class d"],
    counts: Int[Tensor, "2 thought_class"],
) -> float | None:
    """Cosine between the vectors of the two halves; None where either is undefined."""
    first, second = (_difference(recipe, sums[half], counts[half]) for half in (0, 1))
    cosine = float(first @ second / (first.norm() * second.norm()))
    return cosine if isfinite(cosine) else None
