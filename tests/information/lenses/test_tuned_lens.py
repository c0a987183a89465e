"""The tuned lens as an object and as a file."""

from dataclasses import replace

import pytest
import torch

from mi_lens.common.records import DamagedError
from mi_lens.common.tensor_file import write_tensors
from mi_lens.information.lenses.tuned_lens import TunedLens, identity_lens, lens_hook_names
from mi_lens.problems.problem import Problem

HOOKS = [f"blocks.{n}.hook_resid_post" for n in range(3)]


def random_lens(model, **changes):
    """A lens of random numbers."""
    draws = torch.Generator().manual_seed(0)
    lens = identity_lens(model, "fingerprint")
    return replace(
        lens,
        weight=torch.randn(lens.weight.shape, generator=draws, dtype=lens.weight.dtype),
        bias=torch.randn(lens.bias.shape, generator=draws, dtype=lens.bias.dtype),
        **changes,
    )


@pytest.mark.parametrize("name", ["tiny_model", "tiny_bridge"])
def test_a_new_lens_translates_nothing(name, request):
    model = request.getfixturevalue(name)
    lens = identity_lens(model, "fingerprint")
    assert (lens.hook_names, lens.final) == ((HOOKS[0], HOOKS[1]), HOOKS[2])
    assert lens.weight.shape == (2, 32, 32)
    assert lens.weight.dtype == torch.float64
    states = torch.randn(5, 32).double()
    for hook in HOOKS:
        assert torch.equal(lens.translate(hook, states), states)


def test_a_state_is_translated_by_the_formula(tiny_model):
    lens = random_lens(tiny_model)
    states = torch.randn(4, 32)
    for place, hook in enumerate(lens.hook_names):
        expected = [h.double() + lens.weight[place] @ h.double() + lens.bias[place] for h in states]
        torch.testing.assert_close(lens.translate(hook, states), torch.stack(expected))
    assert torch.equal(lens.translate(lens.final, states), states)


def test_states_in_bfloat16_are_translated_in_a_wider_dtype(tiny_model):
    lens = random_lens(tiny_model)
    lens = replace(lens, weight=lens.weight.float(), bias=lens.bias.float())
    states = torch.randn(4, 32).bfloat16()
    translated = lens.translate(HOOKS[0], states)
    assert translated.dtype == torch.float32
    assert torch.equal(translated, lens.translate(HOOKS[0], states.float()))


def test_where_there_is_no_translator_is_told(tiny_model):
    lens = identity_lens(tiny_model, "fingerprint", HOOKS[0])
    with pytest.raises(ValueError, match=r"no translator at 'blocks\.1\.hook_resid_post'"):
        lens.translate(HOOKS[1], torch.zeros(1, 32))
    with pytest.raises(ValueError, match="states of width 31"):
        lens.translate(HOOKS[0], torch.zeros(1, 31))
    with pytest.raises(ValueError, match=r"give at least one hook name before it"):
        lens_hook_names(tiny_model, HOOKS[2])
    assert lens_hook_names(tiny_model, ["blocks.0.hook_resid_p*"]) == (
        "blocks.0.hook_resid_pre",
        "blocks.0.hook_resid_post",
    )


def test_another_model_and_problems_it_saw_are_refused(tiny_model):
    problem, other = Problem("a", "1 + 1?", "2"), Problem("b", "1 + 2?", "3")
    lens = random_lens(tiny_model, problems={problem.key: problem.id})
    lens.check_model("fingerprint")
    with pytest.raises(ValueError, match="tuned lens of model fingerprint with model another"):
        lens.check_model("another")
    lens.check_unused([other])
    with pytest.raises(ValueError, match="1 of 2 problems were used to train the lens, 'c' first"):
        lens.check_unused([other, Problem("c", "1 + 1 ?", "2")])


def test_a_lens_comes_back_from_its_file(tiny_model, tmp_path):
    path = tmp_path / "lens.safetensors"
    lens = random_lens(tiny_model, problems={"key": "id"}, settings={"updates": 3})
    lens.save(path)
    again = TunedLens.load(path)
    for name in ("hook_names", "final", "model", "problems", "settings"):
        assert getattr(again, name) == getattr(lens, name)
    assert torch.equal(again.weight, lens.weight)
    assert torch.equal(again.bias, lens.bias)
    assert "2 hook names" in repr(again)
    assert "updates" in again._repr_html_()
    write_tensors(path, {"weight": lens.weight}, {"kind": "something else"})
    with pytest.raises(DamagedError, match="holds no tuned lens"):
        TunedLens.load(path)
