"""Reading vectors of representation engineering beside SEAL's difference of means.

Zou et al. (arXiv 2310.01405) take the first principal component of normalised
differences between the states of two kinds of stimuli. SEAL subtracts the mean states of the two
kinds. Here the kinds are thoughts, execution against the others, read at the boundaries that open
them. A direction that tells classes apart need not be one that steers: the AUC says how well it
reads, no more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_lens.common.resampling import percentiles, problem_index, split_into_folds
from mi_lens.common.statistics import Estimate
from mi_lens.steering.separability import Separability, boundary_states, finite_states, held_out_auc
from mi_lens.traces.thoughts import SEAL, ThoughtRule
from mi_lens.traces.trace import Trace

MEANS, PAIRED, UNPAIRED = "difference of means", "PC1, one problem", "PC1, any problems"

States = Float[np.ndarray, "thought d"]
Mask = Bool[np.ndarray, " thought"]
Index = Int[np.ndarray, " thought"]


@dataclass(frozen=True, eq=False)
class ReadingVectors:
    """Three directions at one hook name, each pointing from other thoughts to execution.

    Their names: "difference of means", SEAL's S; "PC1, one problem", the reading vector from pairs
    of thoughts of one problem; "PC1, any problems", from pairs drawn at random.

    Attributes:
        hook_name: Where they were read.
        directions: Unit vectors by name, from all thoughts; zero where states do not differ.
        explained: For the reading vectors, the component's share of the pairs' second moment; one
            over the number of dimensions is the least.
        cosine: Of each reading vector with the difference of means; None where one is zero.
        auc: Of each direction, made without the fold that it is tried on.
        gain: AUC less that of the difference of means, with its 95 % interval over problems.
        pairs: Pairs that each reading vector is of.
    """

    hook_name: str
    directions: dict[str, Float[Tensor, " d"]]
    explained: dict[str, float]
    cosine: dict[str, float | None]
    auc: dict[str, Separability]
    gain: dict[str, Estimate]
    pairs: dict[str, int]


def reading_vectors(
    model,
    traces: Sequence[Trace],
    hook_names: Sequence[str],
    *,
    rule: ThoughtRule = SEAL,
    folds: int = 5,
    seed: int = 0,
    batch_size: int = 8,
) -> dict[str, ReadingVectors]:
    """Makes and tries the directions at every hook name.

    Args:
        model: A HookedTransformer or TransformerBridge with its tokenizer.
        traces: Finished traces with their problems.
        hook_names: All are read in one pass; the thoughts' states stand in memory together.
        rule: Tells thoughts apart.
        folds: 3 or more. All thoughts of a problem are in one.
        seed: Of pairs, folds and bootstrap.
        batch_size: See `mi_lens.steering.seal.states_of_thoughts`.

    Raises:
        ValueError: If there are no thoughts, fewer problems than folds, or a class or pairs of one
            problem are lacking; or a state is not finite.
    """
    states, execution, problems = boundary_states(
        model, traces, hook_names, rule=rule, batch_size=batch_size
    )
    return {
        name: compare_directions(
            states[name], execution, problems, hook_name=name, folds=folds, seed=seed
        )
        for name in hook_names
    }


def compare_directions(
    states: Float[Tensor, "thought d"],
    execution: Mask,
    problems: Sequence[str],
    *,
    hook_name: str = "",
    folds: int = 5,
    seed: int = 0,
) -> ReadingVectors:
    """`reading_vectors` on states that were read before.

    Args:
        states: One row a thought.
        execution: Whether it is one.
        problems: The problem of each.
        hook_name: Where they were read.
        folds: 3 or more.
        seed: Of pairs, folds and bootstrap.

    Raises:
        ValueError: As `reading_vectors`.
    """
    x = finite_states(states)
    problem = problem_index(problems, len(x))
    fold = split_into_folds(problem, folds, np.random.default_rng(seed))
    scores: dict[str, Any] = {name: np.empty(len(x)) for name in (MEANS, PAIRED, UNPAIRED)}
    for held_out in (fold == f for f in range(folds)):
        made, _, _ = _directions(x, execution, problem, ~held_out, seed)
        for name, direction in made.items():
            scores[name][held_out] = x[held_out] @ direction
    made, explained, pairs = _directions(x, execution, problem, np.ones(len(x), bool), seed)
    auc, gain = _held_out(scores, execution, problem, fold, seed)
    return ReadingVectors(
        hook_name=hook_name,
        directions={name: torch.from_numpy(direction) for name, direction in made.items()},
        explained=explained,
        cosine={name: _cosine(made[name], made[MEANS]) for name in (PAIRED, UNPAIRED)},
        auc=auc,
        gain=gain,
        pairs=pairs,
    )


def _directions(
    x: States, execution: Mask, problem: Index, train: Mask, seed: int
) -> tuple[dict[str, Float[np.ndarray, " d"]], dict[str, float], dict[str, int]]:
    """Unit directions from the training thoughts, with shares and numbers of pairs."""
    ours, theirs = np.flatnonzero(train & execution), np.flatnonzero(train & ~execution)
    if not len(ours) or not len(theirs):
        only = "other" if len(theirs) else "execution"
        raise ValueError(
            f"the {int(train.sum())} thoughts to make a direction of are all {only} thoughts; "
            "expected both kinds: add traces, or take another rule"
        )
    difference = x[ours].mean(0) - x[theirs].mean(0)
    found = {MEANS: _unit(difference)}
    explained, pairs = {}, {}
    rng = np.random.default_rng(seed)
    for name, group in ((PAIRED, problem), (UNPAIRED, np.zeros_like(problem))):
        first, second = _pair(ours, theirs, group, rng)
        if not len(first):
            raise ValueError(
                "no problem has an execution and another thought to pair; expected traces with both"
            )
        found[name], explained[name] = _first_component(x[first] - x[second])
        pairs[name] = len(first)
    return found, explained, pairs


def _pair(
    ours: Int[np.ndarray, " execution"],
    theirs: Int[np.ndarray, " other"],
    group: Index,
    rng: np.random.Generator,
) -> tuple[Int[np.ndarray, " pair"], Int[np.ndarray, " pair"]]:
    """Thoughts of both kinds paired at random within groups, each at most once."""
    first, second = [], []
    for one in np.unique(group):
        a, b = (rng.permutation(some[group[some] == one]) for some in (ours, theirs))
        n = min(len(a), len(b))
        first.append(a[:n])
        second.append(b[:n])
    return np.concatenate(first), np.concatenate(second)


def _first_component(
    differences: Float[np.ndarray, "pair d"],
) -> tuple[Float[np.ndarray, " d"], float]:
    """The first principal direction of normalised differences, pointing as most of them do.

    Differences are taken in one order and not centred, which is what centring gives where half of
    the pairs, drawn at random, are swapped. Pairs of equal states say nothing and are left out.
    """
    length = np.linalg.norm(differences, axis=1)
    rows = differences[length > 0] / length[length > 0, None]
    if not len(rows):
        return np.zeros(differences.shape[1]), 0.0
    _, sizes, axes = np.linalg.svd(rows, full_matrices=False)
    side = 1.0 if rows.mean(0) @ axes[0] >= 0 else -1.0
    return side * axes[0], float(sizes[0] ** 2 / (sizes**2).sum())


def _unit(vector: Float[np.ndarray, " d"]) -> Float[np.ndarray, " d"]:
    norm = np.linalg.norm(vector)
    return vector / norm if norm > 0 else vector


def _cosine(a: Float[np.ndarray, " d"], b: Float[np.ndarray, " d"]) -> float | None:
    """Of unit vectors, or None where one is zero."""
    return float(a @ b) if a.any() and b.any() else None


def _held_out(
    scores: Mapping[str, Float[np.ndarray, " thought"]],
    execution: Mask,
    problem: Index,
    fold: Index,
    seed: int,
) -> tuple[dict[str, Separability], dict[str, Estimate]]:
    """AUC of each direction and its gain over the difference of means, over the same draws."""
    auc, draws = {}, {}
    for name, score in scores.items():
        auc[name], draws[name] = held_out_auc(score, execution, problem, fold, seed=seed)
    gain = {}
    for name in (PAIRED, UNPAIRED):
        low, high = percentiles(draws[name] - draws[MEANS], 0.95)
        apart = auc[name].auc - auc[MEANS].auc
        gain[name] = Estimate(apart, low, high, auc[name].problems)
    return auc, gain
