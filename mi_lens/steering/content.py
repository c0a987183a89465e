"""Steering vectors without what is about the problems' content.

Zhuang et al. (arXiv 2604.02113): a vector from traces holds something of the problems that the
traces solve. The mean state of each question's tokens is centred over the questions; the first
right singular vectors V of these means span the content; and what remains of a vector is

    v - V V'v

That what does not belong into the vector lies in this subspace is their heuristic. How much of a
vector is removed is reported, so that it can be told from a random subspace: of a random direction
in d dimensions, k components remove about sqrt(k / d) of the norm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from mi_lens.interventions.vector import SteeringVector
from mi_lens.models.hook_names import by_head, head_of
from mi_lens.models.model import Model
from mi_lens.problems.problem import Problem
from mi_lens.problems.prompts import PromptStyle, encode_prompt
from mi_lens.states.segments import States, states_at


@dataclass(frozen=True, eq=False)
class ContentProjection:
    """A steering vector without its content.

    Attributes:
        vector: What remains of the vector, with the recipe "E-RT less 4 of content".
        removed: The norm of what was removed, as a share of the vector's.
        explained: The share of the questions' variance that the removed components explain.
        problems: Number of questions.
    """

    vector: SteeringVector
    removed: float
    explained: float
    problems: int


def without_content(
    model: Model,
    vectors: Mapping[str, SteeringVector],
    problems: Sequence[Problem],
    *,
    components: int = 4,
    style: PromptStyle = "raw",
    batch_size: int = 8,
) -> dict[str, ContentProjection]:
    """Removes from vectors the directions in which questions differ most.

    Args:
        model: A HookedTransformer or TransformerBridge with its tokenizer.
        vectors: Vectors by name, such as `extract_steering_vectors` returns.
        problems: Problems whose questions are read: those that the vectors were made from, say.
            Equal questions count once.
        components: Number of directions; the paper's number is 4.
        style: The prompt that is read of each question. "raw" is the question alone.
        batch_size: Number of questions that the model reads together.

    Returns:
        For each name the vector without its content.

    Raises:
        ValueError: If there are no vectors; if the questions, or the vector's width, do not have so
            many components; or if nothing is left of a vector.
    """
    if not vectors:
        raise ValueError("no vectors; expected at least one")
    questions = list(dict.fromkeys(problem.question for problem in problems))
    names = list(dict.fromkeys(head_of(vector.hook_name)[0] for vector in vectors.values()))
    means = _mean_states(model, questions, names, style, batch_size)
    projections = {}
    for name, vector in vectors.items():
        directions, explained = content_directions(means[vector.hook_name], components)
        whole = vector.vector.double()
        content = (whole @ directions) @ directions.T
        rest = whole - content
        if not float(rest.norm()) > 1e-9 * float(whole.norm()):
            raise ValueError(
                f"{components} components of content leave nothing of the vector at "
                f"{vector.hook_name!r}; take fewer"
            )
        projections[name] = ContentProjection(
            replace(
                vector,
                vector=rest.to(vector.vector.dtype),
                recipe=f"{vector.recipe} less {components} of content",
                reliability=None,
            ),
            removed=float(content.norm() / whole.norm()),
            explained=explained,
            problems=len(questions),
        )
    return projections


def content_directions(
    means: Float[Tensor, "problem d"], components: int
) -> tuple[Float[Tensor, "d components"], float]:
    """The leading principal directions of problems' mean states.

    Args:
        means: The mean state of each question.
        components: How many directions are wanted.

    Returns:
        Orthonormal directions in float64, and the share of the variance that they explain.

    Raises:
        ValueError: If the centred means do not have so many directions.
    """
    x = means.double()
    _, strengths, directions = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    floor = max(x.shape) * torch.finfo(torch.float64).eps * float(strengths.max())
    rank = int((strengths > floor).sum()) if len(x) > 1 else 0
    if not 0 < components <= rank:
        raise ValueError(
            f"components={components}: the centred means of {len(x)} questions in {x.shape[1]} "
            f"dimensions have {rank} directions; expected 1 to {rank}, or more problems"
        )
    variance = strengths**2
    explained = float(variance[:components].sum() / variance.sum())
    return directions[:components].T, explained


def _mean_states(
    model: Model,
    questions: Sequence[str],
    names: Sequence[str],
    style: PromptStyle,
    batch_size: int,
) -> States:
    """The mean over each question's tokens, in float64; the heads of a hook have a name each."""
    sequences = [encode_prompt(model.tokenizer, question, style)[1] for question in questions]
    means: dict[str, list[Tensor]] = {}
    for first in range(0, len(sequences), batch_size):
        batch = sequences[first : first + batch_size]
        for states in states_at(model, batch, names, [range(len(ids)) for ids in batch]):
            for name, of_name in states.items():
                for place, part in by_head(name, of_name, model.cfg.n_heads).items():
                    means.setdefault(place, []).append(part.double().mean(0))
    return {name: torch.stack(rows) for name, rows in means.items()}
