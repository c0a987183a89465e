"""A pretrained model: what is computed of it is what others compute, at its 30 blocks.

Random models have states of one size and even attention. This one has massive coordinates, and
attention that rests on the first token.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch

from mi_lens.generation.generate import generate
from mi_lens.information.per_trace.controls import massive_coordinates
from mi_lens.information.per_trace.hsic import hsic_mi
from mi_lens.models.backends.lookup import available, get_backend
from mi_lens.models.padding import left_pad
from mi_lens.problems.problem import Problem
from mi_lens.states.answer_state import answer_state
from mi_lens.states.capture import capture
from tests.information.per_trace.test_hsic import dense
from tests.models.backends.test_faster_parts import without_our_classes

pytestmark = pytest.mark.real
Float64 = Callable[[], AbstractContextManager[None]]
PROBLEMS = [
    Problem("a", "Tom has 3 apples and buys 4 more. How many apples has he now?", "7"),
    Problem("b", "What is 12 * 7?", "84"),
    Problem("c", "A bag holds 5 red, 6 blue and 9 green balls. How many balls are there?", "20"),
]
PROBLEM = Problem("d", "What is 2 + 2?", "4", solution="2 and 2 are 4.\nThe answer is 4.")


ONE_BACKEND = pytest.mark.parametrize("backend", available()[:1], indirect=True)


@pytest.fixture(scope="session")
def prompts(chat_ids: Callable[[str], list[int]]) -> list[list[int]]:
    return [chat_ids(problem.question) for problem in PROBLEMS]


# The file


def test_the_model_is_the_one_it_says(model: Any) -> None:
    shape = (model.cfg.n_layers, model.cfg.d_model, model.cfg.n_heads, model.cfg.d_vocab)
    assert shape == (30, 576, 9, 49_152)
    assert model.cfg.n_ctx == 8192
    assert model.eos_token_ids == {2}
    assert model.tokenizer.eos_token == "<|im_end|>"


@ONE_BACKEND
@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("\n\n1. So", ["ĊĊ", "1", ".", "ĠSo"]),  # the blank line is a token also before a digit
        (" 1776", ["Ġ", "1", "7", "7", "6"]),
        ("<|im_start|>user\n", ["<|im_start|>", "user", "Ċ"]),
    ],
)
def test_text_is_split_as_in_training(model: Any, text: str, tokens: list[str]) -> None:
    ids = model.tokenizer.encode(text)
    assert model.tokenizer.convert_ids_to_tokens(ids) == tokens
    assert model.tokenizer.decode(ids) == text
    assert model.to_tokens(text).tolist() == [ids]


# The model


def test_logits_are_hugging_faces(
    model: Any, backend: str, hugging_face: Any, prompts: list[list[int]]
) -> None:
    tokens, mask = left_pad(prompts)
    together = get_backend(backend).forward(model, tokens, mask)
    for row, ids in enumerate(prompts):
        alone = torch.tensor([ids])
        expected = hugging_face(alone).logits[0]
        for logits in (
            together[row, -len(ids) :],
            get_backend(backend).forward(model, alone, torch.ones_like(alone))[0],
        ):
            assert (logits - expected).abs().max() < 1e-4 * expected.std()


@pytest.fixture(scope="session")
def greedy(hugging_face: Any, prompts: list[list[int]]) -> list[tuple[int, ...]]:
    """64 tokens of every problem, by Hugging Face's generate."""
    written = []
    for ids in prompts:
        tokens = hugging_face.generate(torch.tensor([ids]), max_new_tokens=64, do_sample=False)
        written.append(tuple(tokens[0, len(ids) :].tolist()))
    assert max(map(len, written)) == 64
    return written


@pytest.mark.parametrize("batch_size", [1, 3])
def test_greedy_tokens_are_hugging_faces(
    model: Any, prompts: list[list[int]], greedy: list[tuple[int, ...]], batch_size: int
) -> None:
    traces = generate(model, PROBLEMS, max_new_tokens=64, batch_size=batch_size, progress=False)
    assert [list(trace.prompt_ids) for trace in traces] == prompts
    assert [trace.token_ids for trace in traces] == greedy


@pytest.mark.skipif("hooked" not in available(), reason="a bridge's hooks are its own")
@pytest.mark.parametrize("backend", ["hooked"], indirect=True)
@pytest.mark.parametrize("padded", [False, True])
def test_every_hook_has_transformer_lens_value(
    exact: Any, prompts: list[list[int]], padded: bool
) -> None:
    untouched = without_our_classes(exact)
    tokens, mask = left_pad(prompts[:2]) if padded else (torch.tensor(prompts[:1]), None)
    given = {} if mask is None else {"attention_mask": mask}
    wanted_logits, wanted = untouched.run_with_cache(tokens, **given)
    logits, values = exact.run_with_cache(tokens, **given)
    torch.testing.assert_close(logits, wanted_logits, rtol=1e-9, atol=1e-9)
    assert set(values) == set(wanted) == set(get_backend("hooked").hook_names(exact))
    assert len(values) > 500
    for name in wanted:
        torch.testing.assert_close(values[name], wanted[name], rtol=1e-9, atol=1e-9, msg=name)


# Its states


@pytest.fixture(scope="module")
def trace(exact: Any, float64_throughout: Float64) -> Any:
    with float64_throughout():
        return generate(exact, PROBLEMS[:1], max_new_tokens=24, progress=False)[0]


@pytest.fixture(scope="module")
def states(exact: Any, trace: Any, float64_throughout: Float64) -> dict[str, torch.Tensor]:
    with float64_throughout():
        return capture(exact, [trace], "blocks.*.hook_resid_post")[0]


def test_capture_equals_decoding(
    exact: Any, trace: Any, states: dict[str, torch.Tensor], float64_throughout: Float64
) -> None:
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in states}
    hooks: list[Any] = [
        (name, lambda state, hook, name=name: seen[name].append(state[0, -1].clone()))
        for name in states
    ]
    with float64_throughout(), exact.hooks(fwd_hooks=hooks):
        again = generate(exact, PROBLEMS[:1], max_new_tokens=24, progress=False)[0]
    assert again.token_ids == trace.token_ids
    assert len(states) == 30
    for name, captured in states.items():
        decoded = torch.stack(seen[name][: len(trace)])
        torch.testing.assert_close(captured, decoded, rtol=1e-9, atol=1e-9)


def test_states_are_hugging_faces(
    trace: Any, states: dict[str, torch.Tensor], reference: Any, float64_throughout: Float64
) -> None:
    tokens = torch.tensor([[*trace.prompt_ids, *trace.token_ids[:-1]]])
    with float64_throughout():
        hidden = reference(tokens, output_hidden_states=True).hidden_states
    for layer in range(29):  # Hugging Face's last one is behind the final norm
        expected = hidden[layer + 1][0, -len(trace) :]
        captured = states[f"blocks.{layer}.hook_resid_post"]
        torch.testing.assert_close(captured, expected, rtol=1e-8, atol=1e-8)


@ONE_BACKEND
def test_mi_with_massive_coordinates_is_the_papers_formula(
    exact: Any, states: dict[str, torch.Tensor], float64_throughout: Float64
) -> None:
    with float64_throughout():
        answers = answer_state(exact, PROBLEM, "blocks.*.hook_resid_post")
    massive = {}
    for name, of_trace in states.items():
        rows, answer = of_trace[::8], answers[name]
        massive[name] = int(massive_coordinates(of_trace, answer).sum())
        for sigma in (50.0, 5.0):
            expected = torch.stack([dense(row, answer, sigma) for row in rows])
            torch.testing.assert_close(
                hsic_mi(rows, answer, sigma=sigma), expected, rtol=1e-8, atol=1e-12
            )
    assert sum(count > 0 for count in massive.values()) > 10, massive
