"""The reading vectors of representation engineering, compared with SEAL's difference of means.

Zou et al. (arXiv 2310.01405) take the first principal component of normalised
differences between the states of two kinds of stimuli. SEAL subtracts the mean states of the two
kinds. Here the two kinds are execution thoughts and all other thoughts; states are read at the
boundaries that open the thoughts. A direction that tells classes apart does not always steer: the
AUC measures only how well the direction tells them apart.
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
from mi_lens.models.model import Model
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

    They are named "difference of means" (SEAL's S); "PC1, one problem" (the reading vector from
    pairs of thoughts within a problem); and "PC1, any problems" (from pairs drawn at random).

    Attributes:
        hook_name: Where the states were read.
        directions: Name to unit vector, computed from all thoughts; zero where states do not
            differ.
        explained: For each reading vector, the component's share of the pairs' second moment; the
            least possible value is 1 / (number of dimensions).
        cosine: Cosine of each reading vector with the difference of means; None where either is
            zero.
        auc: AUC of each direction. The direction is computed without the fold that it is tested on.
        gain: AUC of each reading vector minus that of the difference of means, with its 95 %
            interval over problems.
        pairs: Number of pairs from which each reading vector is computed.
    """

    hook_name: str
    directions: dict[str, Float[Tensor, " d"]]
    explained: dict[str, float]
    cosine: dict[str, float | None]
    auc: dict[str, Separability]
    gain: dict[str, Estimate]
    pairs: dict[str, int]


def reading_vectors(
    model: Model,
    traces: Sequence[Trace],
    hook_names: Sequence[str],
    *,
    rule: ThoughtRule = SEAL,
    folds: int = 5,
    seed: int = 0,
    batch_size: int = 8,
) -> dict[str, ReadingVectors]:
    """Computes and tests the directions at every hook name.

    Args:
        model: A HookedTransformer or TransformerBridge with its tokenizer.
        traces: Finished traces with their problems.
        hook_names: All are read in one pass; the states of all thoughts are in memory at once.
        rule: Assigns a class to every thought.
        folds: Number of folds, 3 or more. All thoughts of a problem are in the same fold.
        seed: Seeds the pairs, the folds and the bootstrap.
        batch_size: See `mi_lens.steering.seal.states_of_thoughts`.

    Raises:
        ValueError: If there are no thoughts; there are fewer problems than folds; a class has no
            thoughts; no problem has a pair of thoughts; or a state is not finite.
    """
    states, execution, problems = boundary_states(
        model, traces, hook_names, rule=rule, batch_size=batch_size
    )
    return {
        name: compare_directions(
            of_name, execution, problems, hook_name=name, folds=folds, seed=seed
        )
        for name, of_name in states.items()
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
    """Does what `reading_vectors` does, on states that were read before.

    Args:
        states: One row per thought.
        execution: Whether each thought is an execution thought.
        problems: The problem of each thought.
        hook_name: Where the states were read.
        folds: Number of folds, 3 or more.
        seed: Seeds the pairs, the folds and the bootstrap.

    Raises:
        ValueError: As `reading_vectors`.
    """
    x = finite_states(states)
    problem = problem_index(problems, len(x))
    fold = split_into_folds(problem, folds, np.random.default_rng(seed))
    scores: dict[str, Any] = {name: np.empty(len(x)) for name in (MEANS, PAIRED, UNPAIRED)}
    for held_out in (fold == f for f in range(folds)):
        directions, _, _ = _directions(x, execution, problem, ~held_out, seed)
        for name, direction in directions.items():
            scores[name][held_out] = x[held_out] @ direction
    directions, explained, pairs = _directions(x, execution, problem, np.ones(len(x), bool), seed)
    auc, gain = _aucs_and_gains(scores, execution, problem, fold, seed)
    return ReadingVectors(
        hook_name=hook_name,
        directions={name: torch.from_numpy(direction) for name, direction in directions.items()},
        explained=explained,
        cosine={name: _cosine(directions[name], directions[MEANS]) for name in (PAIRED, UNPAIRED)},
        auc=auc,
        gain=gain,
        pairs=pairs,
    )


def _directions(
    x: States, execution: Mask, problem: Index, train: Mask, seed: int
) -> tuple[dict[str, Float[np.ndarray, " d"]], dict[str, float], dict[str, int]]:
    """Unit directions from the training thoughts, shares explained, and numbers of pairs."""
    ours, others = np.flatnonzero(train & execution), np.flatnonzero(train & ~execution)
    if not len(ours) or not len(others):
        only = "other" if len(others) else "execution"
        raise ValueError(
            f"the {int(train.sum())} thoughts to compute a direction from are all {only} thoughts; "
            "expected both kinds: add traces, or use another rule"
        )
    difference = x[ours].mean(0) - x[others].mean(0)
    directions = {MEANS: _unit(difference)}
    explained, pairs = {}, {}
    rng = np.random.default_rng(seed)
    for name, group in ((PAIRED, problem), (UNPAIRED, np.zeros_like(problem))):
        first, second = _pair(ours, others, group, rng)
        if not len(first):
            raise ValueError(
                "no problem has an execution and another thought to pair; expected traces with both"
            )
        directions[name], explained[name] = _first_component(x[first] - x[second])
        pairs[name] = len(first)
    return directions, explained, pairs


def _pair(
    ours: Int[np.ndarray, " execution"],
    others: Int[np.ndarray, " other"],
    group: Index,
    rng: np.random.Generator,
) -> tuple[Int[np.ndarray, " pair"], Int[np.ndarray, " pair"]]:
    """Pairs thoughts of the two kinds at random within groups, each thought at most once."""
    first, second = [], []
    for number in np.unique(group):
        a, b = (rng.permutation(kind[group[kind] == number]) for kind in (ours, others))
        n = min(len(a), len(b))
        first.append(a[:n])
        second.append(b[:n])
    return np.concatenate(first), np.concatenate(second)


def _first_component(
    differences: Float[np.ndarray, "pair d"],
) -> tuple[Float[np.ndarray, " d"], float]:
    """The first principal direction of normalised differences, and the share that it explains.

    The direction points where most of the differences point. All differences are taken in the same
    order and are not centred. Swapping a random half of the pairs and centring would give the same.
    Pairs of equal states are left out: their difference has no direction.
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
    """The cosine of two unit vectors; None where either is zero."""
    return float(a @ b) if a.any() and b.any() else None


def _aucs_and_gains(
    scores: Mapping[str, Float[np.ndarray, " thought"]],
    execution: Mask,
    problem: Index,
    fold: Index,
    seed: int,
) -> tuple[dict[str, Separability], dict[str, Estimate]]:
    """AUC of each direction and its gain over the difference of means, from the same draws."""
    auc, draws = {}, {}
    for name, score in scores.items():
        auc[name], draws[name] = held_out_auc(score, execution, problem, fold, seed=seed)
    gain = {}
    for name in (PAIRED, UNPAIRED):
        low, high = percentiles(draws[name] - draws[MEANS], 0.95)
        difference = auc[name].auc - auc[MEANS].auc
        gain[name] = Estimate(difference, low, high, auc[name].problems)
    return auc, gain
