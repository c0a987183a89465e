"""SEAL's steering vectors: differences between mean states at the boundaries that open thoughts.

SEAL (arXiv 2504.07986) steers by S = mean(execution) - mean(reflection and transition),
read from 500 correct and 500 incorrect traces of problems that no evaluation uses.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_lens.models.fingerprint import model_fingerprint
from mi_lens.problems.problem import Problem
from mi_lens.states.capture import capture
from mi_lens.states.segments import States
from mi_lens.steering.vector import SteeringVector
from mi_lens.traces.thoughts import (
    SEAL,
    THOUGHT_CLASSES,
    Thought,
    ThoughtClass,
    ThoughtRule,
    split_thoughts,
)
from mi_lens.traces.trace import Trace

# The first mean less each of the others; letters that stand together are pooled, thought by
# thought. "E-RT" is SEAL's S, "E-R" and "E-T" are ablations. "E-R-T" is what EasySteer calls
# merged: no contrast, as it also takes away what all states have in common.
Recipe = Literal["E-RT", "E-R", "E-T", "E-R-T"]
LETTERS: dict[str, ThoughtClass] = {"E": "execution", "R": "reflection", "T": "transition"}


@dataclass(frozen=True)
class ThoughtStates:
    """A trace's thoughts, and the states at the boundaries that open them.

    Attributes:
        problem: The trace's.
        thoughts: In order, at least one.
        states: Hook name to states, a row a thought, on the CPU in the model's dtype.
    """

    problem: Problem
    thoughts: list[Thought]
    states: States


def states_of_thoughts(
    model,
    traces: Sequence[Trace],
    hook_names: Sequence[str],
    *,
    rule: ThoughtRule = SEAL,
    batch_size: int = 8,
) -> Iterator[ThoughtStates]:
    """Reads the states of thoughts, trace by trace; traces without thoughts are passed over.

    Args:
        model: A HookedTransformer or TransformerBridge with its tokenizer.
        traces: Each with its problem.
        hook_names: All are read in one pass.
        rule: Tells thoughts apart.
        batch_size: Traces read together. Their states at all steps stand in memory at once.

    Raises:
        ValueError: If a trace has no problem.
    """
    for trace in traces:
        trace.require_problem("to tell what its thoughts were read from")
    split_traces = [(trace, split_thoughts(model.tokenizer, trace, rule)) for trace in traces]
    thoughtful = [(trace, thoughts) for trace, thoughts in split_traces if thoughts]
    for start in range(0, len(thoughtful), batch_size):
        batch = thoughtful[start : start + batch_size]
        captured = capture(model, [trace for trace, _ in batch], hook_names, batch_size=batch_size)
        for (trace, thoughts), states in zip(batch, captured, strict=True):
            problem = trace.require_problem("to tell what its thoughts were read from")
            steps = [thought.boundary_step for thought in thoughts]
            yield ThoughtStates(
                problem, thoughts, {name: state[steps] for name, state in states.items()}
            )


def extract_steering_vectors(
    model,
    traces: Sequence[Trace],
    hook_names: Sequence[str],
    *,
    rule: ThoughtRule = SEAL,
    recipe: Recipe = "E-RT",
    batch_size: int = 8,
) -> dict[str, SteeringVector]:
    """SEAL's steering vector, or one of its ablations, at every hook name.

    SEAL's layer 20 is the input of block 20: `blocks.20.hook_resid_pre`, which is
    `blocks.19.hook_resid_post`.

    Sums are kept in float64; vectors come in the model's dtype, and in float32 at least. For the
    reliability the problems are dealt to two halves in turn, all traces of a problem to the same.

    Args:
        model: A HookedTransformer or TransformerBridge with its tokenizer.
        traces: Finished traces with their problems; SEAL takes 500 correct and 500 incorrect ones.
        hook_names: All are read in one pass.
        rule: Tells thoughts apart.
        recipe: "E-RT", mean(execution) - mean(reflection and transition together), SEAL's S;
            "E-R", mean(execution) - mean(reflection); "E-T" likewise; "E-R-T", both means
            subtracted (EasySteer's merged vector).
        batch_size: See `states_of_thoughts`.

    Raises:
        ValueError: If the recipe is unknown, or takes a class of which there are no thoughts.
    """
    if recipe not in get_args(Recipe):
        raise ValueError(f"recipe {recipe!r}: expected one of {get_args(Recipe)}")
    half_of: dict[str, int] = {}
    problems: dict[str, str] = {}
    counts = torch.zeros(2, len(THOUGHT_CLASSES), dtype=torch.int64)
    sums: dict[str, Tensor] = {}
    dtypes: dict[str, torch.dtype] = {}
    for read in states_of_thoughts(model, traces, hook_names, rule=rule, batch_size=batch_size):
        key = read.problem.key
        half = half_of.setdefault(key, len(half_of) % 2)
        problems[key] = read.problem.id
        index = torch.tensor([THOUGHT_CLASSES.index(t.thought_class) for t in read.thoughts])
        counts[half] += torch.bincount(index, minlength=len(THOUGHT_CLASSES))
        for name, states in read.states.items():
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
                f"{counts}); recipe {recipe!r} takes some: add traces, or take another rule or "
                "recipe"
            )


def _difference(
    recipe: Recipe, sums: Float[Tensor, "thought_class d"], counts: Int[Tensor, "thought_class"]
) -> Float[Tensor, "d"]:
    """The recipe's first mean less the others; not finite where a mean is of no thoughts."""
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
    """Cosine between the vectors of the two halves, or None where one is not defined."""
    first, second = (_difference(recipe, sums[half], counts[half]) for half in (0, 1))
    cosine = float(first @ second / (first.norm() * second.norm()))
    return cosine if isfinite(cosine) else None
