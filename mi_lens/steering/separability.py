"""How well a linear probe tells execution from other thoughts, layer by layer; and a 2-D map.

SEAL shows by t-SNE that the classes separate in the deeper layers. Here probes are tested on
held-out problems. The state at `blocks.0.hook_resid_pre` holds only the boundary token (and its
position, where positions are embedded), so its AUC is the level to compare deeper layers with.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_lens.common.html import table, with_interval
from mi_lens.common.resampling import (
    percentiles,
    problem_index,
    require_finite,
    resample,
    split_into_folds,
)
from mi_lens.models.model import Model
from mi_lens.states.segments import States
from mi_lens.steering.seal import states_of_thoughts
from mi_lens.traces.thoughts import SEAL, ThoughtRule
from mi_lens.traces.trace import Trace

Method = Literal["pca", "tsne"]
PERPLEXITY = 30  # The usual value for t-SNE; at most a third of the neighbours.


@dataclass(frozen=True)
class Separability:
    """A probe's cross-validated AUC: how often an execution thought scores above another one.

    Attributes:
        auc: Over pairs of an execution and another thought in the same fold; .5 is chance.
        low: Lower end of the AUC's 95 % interval, from resampling held-out problems.
        high: Upper end of the interval.
        execution: Number of execution thoughts.
        others: Number of reflection and transition thoughts.
        problems: Number of problems.
    """

    auc: float
    low: float
    high: float
    execution: int
    others: int
    problems: int

    def _repr_html_(self) -> str:
        about = {
            "AUC (95 % interval)": with_interval(self.auc, self.low, self.high),
            "execution thoughts": self.execution,
            "other thoughts": self.others,
            "problems": self.problems,
        }
        return table(about)


def separability(
    model: Model,
    traces: Sequence[Trace],
    hook_names: Sequence[str],
    *,
    rule: ThoughtRule = SEAL,
    folds: int = 5,
    seed: int = 0,
    batch_size: int = 8,
) -> dict[str, Separability]:
    """Measures how well the state at a boundary predicts the class of the thought that follows.

    Args:
        model: A HookedTransformer or TransformerBridge with its tokenizer.
        traces: Finished traces with their problems.
        hook_names: All are read in one pass; the states of all thoughts are in memory at once.
        rule: Assigns a class to every thought.
        folds: Number of folds, 3 or more. All thoughts of a problem are in the same fold.
        seed: Seeds the folds.
        batch_size: See `mi_lens.steering.seal.states_of_thoughts`.

    Returns:
        The separability at every hook name, and for every head of an `attn.hook_z`.

    Raises:
        ValueError: If there are fewer problems than folds, or the thoughts outside a fold are all
            of the same kind (execution or other).
    """
    states, execution, problems = boundary_states(
        model, traces, hook_names, rule=rule, batch_size=batch_size
    )
    return {
        name: probe_auc(of_name, execution, problems, folds=folds, seed=seed)
        for name, of_name in states.items()
    }


def boundary_states(
    model: Model,
    traces: Sequence[Trace],
    hook_names: Sequence[str],
    *,
    rule: ThoughtRule = SEAL,
    batch_size: int = 8,
) -> tuple[States, Bool[np.ndarray, "thought"], list[str]]:
    """Reads the states at the boundaries that open thoughts.

    Args:
        model: A HookedTransformer or TransformerBridge with its tokenizer.
        traces: Finished traces with their problems.
        hook_names: All are read in one pass; the states of all thoughts are in memory at once.
        rule: Assigns a class to every thought.
        batch_size: See `mi_lens.steering.seal.states_of_thoughts`.

    Returns:
        Hook name to states, one row per thought; whether each thought is an execution thought; and
        the key of each thought's problem.

    Raises:
        ValueError: If there are no thoughts.
    """
    parts = list(states_of_thoughts(model, traces, hook_names, rule=rule, batch_size=batch_size))
    if not parts:
        raise ValueError(
            f"no thoughts in {len(traces)} traces; expected reasoning with blank lines between "
            "thoughts inside the think block"
        )
    states = {  # Removed from the parts as they are joined: two copies may not fit in memory.
        name: torch.cat([part.states.pop(name) for part in parts]) for name in list(parts[0].states)
    }
    execution = np.array([t.thought_class == "execution" for part in parts for t in part.thoughts])
    problems = [part.problem.key for part in parts for _ in part.thoughts]
    return states, execution, problems


def probe_auc(
    states: Float[Tensor, "thought d"],
    execution: Bool[np.ndarray, "thought"],
    problems: Sequence[str],
    *,
    folds: int = 5,
    seed: int = 0,
) -> Separability:
    """The held-out AUC of logistic regression on standardised states.

    The L2 penalty equals one of weight 1 on standardised states that are scaled to a mean squared
    norm of 1. Only thoughts of the same fold are compared, as the same probe scored them. The
    interval accounts for the choice of test problems, but not of training problems.

    Args:
        states: One row per thought.
        execution: Whether each thought is an execution thought.
        problems: The problem of each thought; all thoughts of a problem are held out together.
        folds: Number of folds, 3 or more.
        seed: Seeds the folds.

    Raises:
        ValueError: As `separability`, or if a state is not finite.
    """
    x = finite_states(states)
    problem = problem_index(problems, len(x))
    fold = split_into_folds(problem, folds, np.random.default_rng(seed))
    score = np.empty(len(x))
    for held_out in (fold == f for f in range(folds)):
        score[held_out] = _probe_scores(x, execution, ~held_out)[held_out]
    return held_out_auc(score, execution, problem, fold, seed=seed)[0]


def held_out_auc(
    score: Float[np.ndarray, "thought"],
    execution: Bool[np.ndarray, "thought"],
    problem: Int[np.ndarray, "thought"],
    fold: Int[np.ndarray, "thought"],
    *,
    seed: int = 0,
) -> tuple[Separability, Float[np.ndarray, "draw"]]:
    """The AUC of scores within folds, and its value in each bootstrap draw of problems.

    The draws depend only on the seed and the problems, so draws for two scores can be paired.

    Args:
        score: The score of each thought, higher for execution.
        execution: Whether each thought is an execution thought.
        problem: The number of each thought's problem.
        fold: The number of each thought's fold.
        seed: Seeds the draws.

    Raises:
        ValueError: If no fold holds both kinds of thoughts.
    """
    wins, pairs = _pairs_by_problem(score, execution, problem, fold)
    if not pairs.sum():
        raise ValueError(
            "no fold holds both an execution and another thought; expected more problems, or "
            "fewer folds"
        )
    weights = resample(len(wins), seed=seed).astype(float)
    with np.errstate(invalid="ignore"):  # A draw without pairs has no AUC.
        draws = ((weights @ wins) * weights).sum(1) / ((weights @ pairs) * weights).sum(1)
    low, high = percentiles(draws, 0.95)
    counts = int(execution.sum()), int((~execution).sum()), len(wins)
    return Separability(float(wins.sum() / pairs.sum()), low, high, *counts), draws


def finite_states(states: Float[Tensor, "thought d"]) -> Float[np.ndarray, "thought d"]:
    """States as a float64 array.

    Raises:
        ValueError: If a state is not finite, or they are no matrix.
    """
    x = torch.as_tensor(states).detach().cpu().double()
    if x.ndim != 2:
        raise ValueError(f"states of shape {tuple(x.shape)}; expected (thoughts, d)")
    require_finite(x.isfinite().all(1).numpy(), "boundary states")
    return x.numpy()


def _probe_scores(
    x: Float[np.ndarray, "thought d"],
    execution: Bool[np.ndarray, "thought"],
    train: Bool[np.ndarray, "thought"],
) -> Float[np.ndarray, "thought"]:
    """Log odds of execution by a probe fitted on the training thoughts."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(execution[train])) < 2:
        only = "execution" if execution[train].any() else "reflection or transition"
        raise ValueError(
            f"the {int(train.sum())} thoughts to train a probe on are all {only}; expected both "
            "kinds: add traces, or use another rule"
        )
    probe = make_pipeline(
        StandardScaler(), LogisticRegression(C=1 / x.shape[1], max_iter=1000, tol=1e-6)
    )
    return probe.fit(x[train], execution[train]).decision_function(x)


def _pairs_by_problem(
    score: Float[np.ndarray, "thought"],
    execution: Bool[np.ndarray, "thought"],
    problem: Int[np.ndarray, "thought"],
    fold: Int[np.ndarray, "thought"],
) -> tuple[Float[np.ndarray, "problem problem"], Float[np.ndarray, "problem problem"]]:
    """Pairs of an execution and another thought, counted by the problems of the two.

    Row i, column j of the first matrix counts the pairs of an execution thought of problem i and
    another thought of problem j in which the execution thought scores higher; a tie counts half.
    The second matrix counts all such pairs. Problems of different folds have no pairs. Resampling
    problems then only weights these counts, so scores are sorted once.
    """
    n = int(problem.max()) + 1
    wins, pairs = np.zeros((n, n)), np.zeros((n, n))
    for column in range(n):
        in_problem = problem == column
        others = np.sort(score[in_problem & ~execution])
        rivals = execution & (fold == fold[in_problem][0])
        below, up_to = (np.searchsorted(others, score[rivals], side) for side in ("left", "right"))
        wins[:, column] = np.bincount(problem[rivals], (below + up_to) / 2, minlength=n)
        pairs[:, column] = np.bincount(problem[rivals], minlength=n) * len(others)
    return wins, pairs


def coordinates(
    states: Float[Tensor, "thought d"], *, method: Method = "pca", seed: int = 0
) -> Float[np.ndarray, "thought 2"]:
    """Projects states onto a plane, to be drawn.

    Args:
        states: One row per thought, at least three.
        method: "pca" projects onto the two directions of greatest variance. "tsne" keeps neighbours
            together (van der Maaten and Hinton 2008) and starts from the PCA; distances between its
            groups mean little.
        seed: Seeds t-SNE.

    Raises:
        ValueError: If the method is unknown, or there are not three different, finite states.
    """
    if method not in get_args(Method):
        raise ValueError(f"method {method!r}: expected one of {get_args(Method)}")
    x = finite_states(states)
    if len(x) < 3 or x.shape[1] < 2:
        raise ValueError(f"states of shape {x.shape}: expected (3 thoughts or more, 2 or more)")
    if not np.ptp(x, axis=0).any():
        raise ValueError(f"all {len(x)} states are equal: they span no plane")
    if method == "pca":
        from sklearn.decomposition import PCA

        return PCA(2, svd_solver="full").fit_transform(x)
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(x) - 1) / 3)
    plane = TSNE(2, init="pca", perplexity=perplexity, random_state=seed)
    return plane.fit_transform(x).astype(np.float64)
