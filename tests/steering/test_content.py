import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_lens.interventions.vector import SteeringVector
from mi_lens.problems.problem import Problem
from mi_lens.problems.prompts import encode_prompt
from mi_lens.steering.content import content_directions, without_content
from mi_lens.traces.thoughts import ThoughtClass

NAMES = ["blocks.1.hook_resid_post", "blocks.2.attn.hook_z[1]"]
QUESTIONS = ["What is 12 * 7?", "Hi", "A farmer has 37 boxes.", "So let me", "84 - 5", "I think"]
PROBLEMS = [Problem(f"set/{i}", question, "1") for i, question in enumerate(QUESTIONS)]


@pytest.fixture(params=["tiny_model", "tiny_bridge"])
def model(request):
    return request.getfixturevalue(request.param)


def vector_at(name, numbers):
    counts: dict[ThoughtClass, int] = {"execution": 3, "reflection": 2, "transition": 1}
    return SteeringVector(name, numbers, "m", "E-RT", "seal", counts, {"key": "id"}, 0.9)


def plain_means(model, hook, head=None):
    """The mean state of each question, read by TransformerLens itself."""
    means = []
    for question in QUESTIONS:
        tokens = torch.tensor([encode_prompt(model.tokenizer, question, "raw")[1]])
        _, cache = model.run_with_cache(tokens, names_filter=lambda name: name == hook)
        state = cache[hook][0] if head is None else cache[hook][0, :, head]
        means.append(state.double().mean(0).numpy())
    return np.array(means)


def test_equals_a_plain_evaluation(model):
    rng = torch.Generator().manual_seed(0)
    vectors = {
        name: vector_at(name, torch.randn(width, generator=rng, dtype=torch.float64))
        for name, width in zip(NAMES, (32, 8), strict=True)
    }
    # A repeated question counts once.
    projected = without_content(
        model, vectors, [*PROBLEMS, PROBLEMS[0]], components=2, batch_size=4
    )
    for name, vector in vectors.items():
        hook, head = (name, None) if "[" not in name else (name[:-3], 1)
        x = plain_means(model, hook, head)
        covariance = np.cov(x.T)
        values, directions = np.linalg.eigh(covariance)
        content = directions[:, -2:]
        whole = vector.vector.numpy()
        rest = whole - content @ (content.T @ whole)
        result = projected[name]
        np.testing.assert_allclose(result.vector.vector.numpy(), rest, atol=2e-5)
        removed = np.linalg.norm(whole - rest) / np.linalg.norm(whole)
        assert result.removed == pytest.approx(removed, abs=1e-5)
        assert result.explained == pytest.approx(values[-2:].sum() / values.sum(), abs=1e-6)
        assert result.problems == len(QUESTIONS)
        assert result.vector.recipe == "E-RT less 2 of content"
        assert (result.vector.hook_name, result.vector.problems) == (name, {"key": "id"})


@settings(max_examples=25, deadline=None)
@given(st.integers(3, 12), st.integers(2, 9), st.integers(0, 99))
def test_nothing_of_the_content_is_left(problems, width, seed):
    rng = torch.Generator().manual_seed(seed)
    means = torch.randn(problems, width, generator=rng, dtype=torch.float64)
    rank = min(problems - 1, width)
    directions, explained = content_directions(means, rank)
    torch.testing.assert_close(directions.T @ directions, torch.eye(rank).double())
    centred = means - means.mean(0)
    torch.testing.assert_close(centred @ directions @ directions.T, centred, atol=1e-10, rtol=0)
    assert explained == pytest.approx(1.0)
    with pytest.raises(ValueError, match=f"have {rank} directions"):
        content_directions(means, rank + 1)


def test_what_cannot_be_done_is_named(tiny_model):
    vector = vector_at(NAMES[0], torch.ones(32))
    with pytest.raises(ValueError, match="no vectors"):
        without_content(tiny_model, {}, PROBLEMS)
    with pytest.raises(ValueError, match=r"components=4.*1 questions.*0 directions"):
        without_content(tiny_model, {"v": vector}, PROBLEMS[:1])
    with pytest.raises(ValueError, match="components=0"):
        without_content(tiny_model, {"v": vector}, PROBLEMS, components=0)
    means = torch.tensor(plain_means(tiny_model, NAMES[0]))
    inside = vector_at(NAMES[0], means[0] - means.mean(0))
    with pytest.raises(ValueError, match="leave nothing of the vector"):
        without_content(tiny_model, {"v": inside}, PROBLEMS, components=5)
