"""What both backends promise, on every architecture, against Hugging Face's model in float64."""

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from mi_lens.models.backends.lookup import backend_of
from mi_lens.models.hook_names import (
    block_output,
    last_block_output,
    layer_of_output,
    match_hook_names,
    resolve_hook_names,
)

EXACT = {"rtol": 0, "atol": 1e-9}  # logits here have a standard deviation of 0.6 to 3
LENGTH = 26
PADDING = (0, 4, 15)

property_test = settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


pytestmark = pytest.mark.usefixtures("exactly")


def batch(padding: tuple[int, ...] = PADDING, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random tokens, and the attention mask of rows with this much padding on the left."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(6, 384, (len(padding), LENGTH), generator=generator)
    mask = torch.stack([(torch.arange(LENGTH) >= pad).long() for pad in padding])
    return tokens, mask


def alone(source: Any, tokens: Tensor, mask: Tensor) -> Tensor:
    """Hugging Face's logits, each row by itself without its padding; zero at the padding."""
    logits = torch.zeros(*tokens.shape, source.config.vocab_size, dtype=torch.float64)
    for row, padding in enumerate((1 - mask).sum(dim=1).tolist()):
        logits[row, padding:] = source(tokens[row : row + 1, padding:]).logits[0]
    return logits


def real(values: Tensor, mask: Tensor) -> Tensor:
    """The values at real positions, from the last positions that `values` has."""
    return values[mask[:, mask.shape[1] - values.shape[1] :].bool()]


def decode(backend: Any, model: Any, tokens: Tensor, mask: Tensor, ends: list[int]) -> Tensor:
    """Logits of all positions, computed with a cache in steps that end at `ends`."""
    cache = backend.new_cache(model, len(tokens))
    logits = [
        backend.step(model, tokens[:, start:end], mask[:, :end], cache)
        for start, end in zip([0, *ends[:-1]], ends, strict=True)
    ]
    assert backend.cache_length(cache) == ends[-1]
    return torch.cat(logits, dim=1)


@given(
    padding=st.lists(st.integers(0, LENGTH - 1), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
)
@property_test
def test_forward_is_each_row_alone(
    backend: Any, model: Any, source: Any, padding: list[int], seed: int
) -> None:
    tokens, mask = batch(tuple(padding), seed)
    logits = backend.forward(model, tokens, mask)
    assert logits.dtype == torch.float64
    assert logits.isfinite().all()
    expected = alone(source, tokens, mask)
    assert real(expected, mask).std() > 0.3  # a comparison of degenerate logits shows nothing
    torch.testing.assert_close(real(logits, mask), real(expected, mask), **EXACT)


@given(ends=st.sets(st.integers(1, LENGTH - 1), max_size=LENGTH), seed=st.integers(0, 1000))
@property_test
def test_decoding_is_the_whole_forward(backend: Any, model: Any, ends: set[int], seed: int) -> None:
    tokens, mask = batch(seed=seed)
    logits = decode(backend, model, tokens, mask, [*sorted(ends), LENGTH])
    assert logits.isfinite().all()
    whole = backend.forward(model, tokens, mask)
    torch.testing.assert_close(real(logits, mask), real(whole, mask), **EXACT)


def test_a_watched_pattern_changes_nothing(backend: Any, model: Any, source: Any) -> None:
    """A backend leaves steps out where no hook watches them."""
    tokens, mask = batch()
    name = "blocks.1.attn.hook_pattern"
    with model.hooks(fwd_hooks=[(name, lambda pattern, hook: None)]):
        logits = decode(backend, model, tokens, mask, [20, 21, LENGTH])
    torch.testing.assert_close(real(logits, mask), real(alone(source, tokens, mask), mask), **EXACT)


def test_kept_rows_go_on_as_before(backend: Any, model: Any) -> None:
    tokens, mask = batch()
    whole = backend.forward(model, tokens, mask)
    cache = backend.new_cache(model, len(tokens))
    backend.step(model, tokens[:, :20], mask[:, :20], cache)
    rows = torch.tensor([2, 0])
    backend.keep_rows(cache, rows)
    for end in range(21, LENGTH + 1):
        logits = backend.step(model, tokens[rows, end - 1 : end], mask[rows, :end], cache)
        torch.testing.assert_close(logits, whole[rows, end - 1 : end], **EXACT)


def test_a_row_may_go_on_in_several_ways(backend: Any, model: Any) -> None:
    tokens, mask = batch()
    cache = backend.new_cache(model, len(tokens))
    backend.step(model, tokens[:, :20], mask[:, :20], cache)
    rows = torch.tensor([2, 1, 2, 2])
    backend.keep_rows(cache, rows)
    several = tokens[rows]
    several[:, 20:] = torch.randint(6, 384, (4, LENGTH - 20))
    logits = backend.step(model, several[:, 20:], mask[rows], cache)
    whole = backend.forward(model, several, mask[rows])[:, 20:]
    torch.testing.assert_close(logits, whole, **EXACT)


@pytest.mark.parametrize("lengths", [(20, 12), (12, 20), (16, 16)])
def test_joined_rows_go_on_as_before(backend: Any, model: Any, lengths: tuple[int, int]) -> None:
    """Two batches, with `lengths` positions so far, go on as one."""
    width = max(lengths)
    caches, starts, masks = [], [], []
    for seed, length in enumerate(lengths):
        tokens, mask = batch((0, 5), seed)
        tokens, mask = tokens[:, :length], mask[:, :length]
        caches.append(backend.new_cache(model, 2))
        backend.step(model, tokens, mask, caches[-1])
        starts.append(torch.nn.functional.pad(tokens, (width - length, 0)))
        masks.append(torch.nn.functional.pad(mask, (width - length, 0)))
    cache = caches[0]
    backend.join(cache, caches[1])
    assert backend.cache_length(cache) == width
    tokens, mask = torch.cat(starts), torch.cat(masks)
    for end in range(width + 1, width + 4):
        tokens = torch.cat([tokens, torch.randint(6, 384, (4, 1))], dim=1)
        mask = torch.cat([mask, mask.new_ones(4, 1)], dim=1)
        logits = backend.step(model, tokens[:, end - 1 :], mask, cache)
        whole = backend.forward(model, tokens, mask)
        torch.testing.assert_close(logits, whole[:, -1:], **EXACT)


def test_a_row_may_be_copied_over_another(backend: Any, model: Any) -> None:
    tokens, mask = batch()
    whole = backend.forward(model, tokens, mask)
    cache = backend.new_cache(model, len(tokens))
    backend.step(model, tokens[:, :20], mask[:, :20], cache)
    backend.copy_rows(cache, torch.tensor([2]), torch.tensor([0]))
    rows = [2, 1, 2]
    logits = backend.step(model, tokens[rows, 20:], mask[rows], cache)
    torch.testing.assert_close(logits, whole[rows, 20:], **EXACT)


@pytest.mark.parametrize("lengths", [(20, 12), (12, 20)])
def test_joined_rows_may_take_the_place_of_others(
    backend: Any, model: Any, lengths: tuple[int, int]
) -> None:
    width = max(lengths)
    (tokens, mask), (others, others_mask) = batch(), batch((3, 7), seed=1)
    caches = []
    for ids, real, length in zip((tokens, others), (mask, others_mask), lengths, strict=True):
        caches.append(backend.new_cache(model, len(ids)))
        first = LENGTH - length
        real[:, :first] = 0
        real[:, -1] = 1
        backend.step(model, ids[:, first:], real[:, first:], caches[-1])
    backend.join(caches[0], caches[1], torch.tensor([2, 0]))
    tokens[[2, 0]], mask[[2, 0]] = others, others_mask
    assert backend.cache_length(caches[0]) == width
    new = torch.randint(6, 384, (3, 2))
    step_mask = torch.cat([mask[:, LENGTH - width :], torch.ones(3, 2, dtype=torch.long)], dim=1)
    logits = backend.step(model, new, step_mask, caches[0])
    whole = backend.forward(
        model,
        torch.cat([tokens, new], dim=1),
        torch.cat([mask, torch.ones(3, 2, dtype=torch.long)], dim=1),
    )
    torch.testing.assert_close(logits, whole[:, -2:], **EXACT)


def test_padding_may_be_trimmed(backend: Any, model: Any) -> None:
    tokens, mask = batch((4, 9, 6))
    whole = backend.forward(model, tokens, mask)
    cache = backend.new_cache(model, len(tokens))
    backend.step(model, tokens[:, :20], mask[:, :20], cache)
    backend.trim(cache, 4)
    assert backend.cache_length(cache) == 16
    for end in range(21, LENGTH + 1):
        logits = backend.step(model, tokens[:, end - 1 : end], mask[:, 4:end], cache)
        torch.testing.assert_close(logits, whole[:, end - 1 : end], **EXACT)


def test_a_cropped_cache_takes_another_continuation(backend: Any, model: Any) -> None:
    tokens, mask = batch()
    other = batch(seed=1)[0]
    cache = backend.new_cache(model, len(tokens))
    backend.step(model, tokens, mask, cache)
    backend.crop(cache, 18)
    assert backend.cache_length(cache) == 18
    logits = backend.step(model, other[:, 18:], mask, cache)
    mixed = torch.cat([tokens[:, :18], other[:, 18:]], dim=1)
    torch.testing.assert_close(logits, backend.forward(model, mixed, mask)[:, 18:], **EXACT)


def test_rows_take_positions_back(backend: Any, model: Any) -> None:
    """One row goes on from an earlier position, at the right of a longer padding."""
    tokens, mask = batch((0, 4, 9))
    other = batch(seed=1)[0]
    taken = {0: 5, 2: 2}
    cache = backend.new_cache(model, len(tokens))
    backend.step(model, tokens[:, :20], mask[:, :20], cache)
    backend.take_back(cache, taken)
    whole, real_mask = tokens[:, :20].clone(), mask[:, :20].clone()
    for row, count in taken.items():
        whole[row, count:], real_mask[row, :count] = tokens[row, : 20 - count], 0
        real_mask[row, count:] = mask[row, : 20 - count]
    for end in range(21, 25):
        whole = torch.cat([whole, other[:, end - 1 : end]], dim=1)
        real_mask = torch.cat([real_mask, mask.new_ones(3, 1)], dim=1)
        logits = backend.step(model, whole[:, -1:], real_mask, cache)
        expected = backend.forward(model, whole, real_mask)[:, -1:]
        torch.testing.assert_close(logits, expected, **EXACT)


@pytest.mark.parametrize("keep", [0, 1, 3])
def test_logits_of_the_last_positions_only(backend: Any, model: Any, keep: int) -> None:
    tokens, mask = batch()
    expected = backend.forward(model, tokens, mask)[:, LENGTH - keep :]
    logits = backend.forward(model, tokens, mask, logits_to_keep=keep)
    torch.testing.assert_close(logits, expected, **EXACT)
    cache = backend.new_cache(model, len(tokens))
    logits = backend.step(model, tokens, mask, cache, logits_to_keep=keep)
    torch.testing.assert_close(logits, expected, **EXACT)


def test_hooks_see_the_residual_stream(backend: Any, model: Any, source: Any) -> None:
    tokens, mask = batch((0,))
    layers = range(model.cfg.n_layers)
    seen: dict[str, Tensor] = {}
    hooks = [
        (name, lambda state, hook, name=name: seen.update({name: state}))
        for layer in layers
        for name in (f"blocks.{layer}.hook_resid_pre", f"blocks.{layer}.hook_resid_post")
    ]
    with model.hooks(fwd_hooks=hooks):
        backend.forward(model, tokens, mask, logits_to_keep=0)
    # Entry N is the input of block N; the one after the last block has been through the last norm.
    states = source(tokens, output_hidden_states=True).hidden_states
    for layer in layers:
        torch.testing.assert_close(seen[f"blocks.{layer}.hook_resid_pre"], states[layer], **EXACT)
    for layer in layers[:-1]:
        after = states[layer + 1]
        torch.testing.assert_close(seen[f"blocks.{layer}.hook_resid_post"], after, **EXACT)


def test_hooks_act_at_every_step(backend: Any, model: Any) -> None:
    tokens, mask = batch()
    push = torch.linspace(-1, 1, model.cfg.d_model, dtype=torch.float64)
    widths = []

    def steer(state: Tensor, hook: Any) -> Tensor:
        widths.append(state.shape[1])
        return state + push

    with model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", steer)]):
        decoded = decode(backend, model, tokens, mask, [20, 21, 23, LENGTH])
        whole = backend.forward(model, tokens, mask)
    assert widths == [20, 1, 2, 3, LENGTH]
    torch.testing.assert_close(real(decoded, mask), real(whole, mask), **EXACT)
    plain = backend.forward(model, tokens, mask)
    assert (real(whole, mask) - real(plain, mask)).abs().max() > 0.1  # and the hook is gone again


def test_every_hook_named_fires(backend: Any, model: Any) -> None:
    tokens, mask = batch()
    names = backend.hook_names(model)
    assert {"hook_embed", "blocks.0.attn.hook_pattern", "blocks.2.hook_mlp_out"} <= set(names)
    fired = set()
    hooks = [(name, lambda state, hook, name=name: fired.add(name)) for name in names]
    with model.hooks(fwd_hooks=hooks):
        backend.forward(model, tokens, mask)
    assert fired == set(names)


def test_unembed_ends_the_forward_pass(backend: Any, model: Any) -> None:
    tokens, mask = batch((0, 0))
    kept: list[Tensor] = []
    last = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    with model.hooks(fwd_hooks=[(last, lambda state, hook: kept.append(state))]):
        logits = backend.forward(model, tokens, mask)
    torch.testing.assert_close(backend.unembed(model, kept[0]), logits, **EXACT)
    torch.testing.assert_close(backend.unembed(model, kept[0][1, 7]), logits[1, 7], **EXACT)


def test_unembed_takes_stored_states(backend: Any, model: Any) -> None:
    states = torch.linspace(-2, 2, 3 * model.cfg.d_model).reshape(3, -1).to(torch.bfloat16)
    logits = backend.unembed(model, states)
    assert logits.dtype == torch.float64
    torch.testing.assert_close(logits, backend.unembed(model, states.to(torch.float64)), **EXACT)
    more_than_the_context = states[:1].expand(model.cfg.n_ctx + 1, -1)
    assert len(backend.unembed(model, more_than_the_context)) == model.cfg.n_ctx + 1


def test_rows_may_be_as_long_as_the_context(backend: Any, model: Any, source: Any) -> None:
    context = model.cfg.n_ctx
    tokens = torch.arange(context + 1).remainder(377).add(6)[None]
    logits = backend.forward(model, tokens[:, 1:], torch.ones_like(tokens[:, 1:]), 1)
    expected = source(tokens[:, 1:]).logits[:, -1:]
    torch.testing.assert_close(logits, expected, **EXACT)
    with pytest.raises(ValueError, match=rf"{context + 1} tokens.*context is {context}"):
        backend.forward(model, tokens, torch.ones_like(tokens))
    padded = torch.ones_like(tokens)
    padded[:, 0] = 0
    torch.testing.assert_close(backend.forward(model, tokens, padded, 1), expected, **EXACT)


def test_the_config_has_the_checkpoints_shape(backend: Any, model: Any, source: Any) -> None:
    config = source.config
    assert model.cfg.n_layers == config.num_hidden_layers
    assert model.cfg.d_model == config.hidden_size
    assert model.cfg.d_vocab == config.vocab_size
    assert model.cfg.n_ctx == config.max_position_embeddings
    assert model.cfg.dtype == torch.float64
    assert torch.device(model.cfg.device) == torch.device("cpu")


def test_the_model_is_ready_to_be_read(backend: Any, model: Any) -> None:
    assert backend_of(model) is backend
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("blocks.40.hook_resid_post", r"3 layers, blocks\.0 to blocks\.2"),
        ("blocks.2.hook_resid_pots", r"near: .*blocks\.2\.hook_resid_post"),
        ("resid", r"blocks\.0\.hook_resid_post"),
        ("blocks.0.attn.hook_result", r"switched off"),
    ],
)
def test_hooks_that_do_not_exist_are_refused(
    backend: Any, model: Any, name: str, hint: str
) -> None:
    with pytest.raises(ValueError, match=hint) as error:
        resolve_hook_names(model, ["blocks.0.hook_resid_pre", name])
    assert name in str(error.value)


def test_a_hook_is_given_once(backend: Any, model: Any) -> None:
    name = "blocks.0.hook_resid_pre"
    with pytest.raises(ValueError, match=r"\['blocks.0.hook_resid_pre'\] are given more than once"):
        resolve_hook_names(model, [name, "blocks.1.hook_resid_pre", name])


def test_patterns_of_hook_names(backend: Any, model: Any) -> None:
    every = [f"blocks.{layer}.hook_resid_post" for layer in range(3)]
    assert match_hook_names(model, "blocks.*.hook_resid_post") == every
    assert match_hook_names(model, [every[2], "blocks.*.hook_resid_post"]) == [
        every[2],
        every[0],
        every[1],
    ]
    with pytest.raises(ValueError, match=r"blocks\.\*\.hook_resid_pots"):
        match_hook_names(model, "blocks.*.hook_resid_pots")


def test_hook_names_of_outputs(backend: Any, model: Any) -> None:
    every = match_hook_names(model, "blocks.*.hook_resid_post")
    assert [block_output(layer) for layer in range(3)] == every
    assert [layer_of_output(name) for name in every] == [0, 1, 2]
    assert last_block_output(model) == every[-1]
    others = ("blocks.0.hook_resid_pre", "blocks.-1.hook_resid_post", "blocks.0.hook_resid_post.x")
    assert [layer_of_output(name) for name in others] == [None, None, None]


def test_hook_names_come_back_as_a_list(backend: Any, model: Any) -> None:
    names = ("blocks.2.hook_resid_post", "blocks.0.hook_resid_mid")
    assert resolve_hook_names(model, names) == list(names)
    assert resolve_hook_names(model, names[0]) == [names[0]]
