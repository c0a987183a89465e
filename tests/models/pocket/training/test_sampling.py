"""Samples against Hugging Face's own logits, token by token."""

from random import Random

import pytest
import torch
from transformers import AutoTokenizer, Qwen2ForCausalLM

from mi_lens.models.pocket import CHECKPOINTS
from mi_lens.models.pocket.training.sampling import Sample, sample
from mi_lens.models.pocket.training.train import Shape, build_model

PROMPTS = [[5, 9, 200, 31], [7], [40, 41, 42, 43, 44, 45, 46, 300, 301]]


@pytest.fixture(scope="module")
def model() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINTS["pocket-base"])
    shape = Shape(layers=3, width=32, heads=4, key_value_heads=2, mlp_width=48)
    model = build_model(shape, tokenizer).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3) if parameter.ndim == 2 else parameter.add_(0.1)
        # Rows must end at different places.
        model.lm_head.weight[model.config.eos_token_id] *= 1.5
    return model


def draw(model: Qwen2ForCausalLM, seed: int = 0, **options) -> list[Sample]:
    generator = torch.Generator().manual_seed(seed)
    return sample(PROMPTS, model, generator, **{"copies": 20, "max_new_tokens": 40, **options})


def scores_after(model: Qwen2ForCausalLM, prompt: list[int], reply: list[int]) -> torch.Tensor:
    """Hugging Face's log-probabilities at each token of a reply, read in one piece."""
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([prompt + reply])).logits[0]
    return logits[len(prompt) - 1 : -1].log_softmax(-1)


def test_each_sample_has_the_log_probabilities_and_entropies_of_hugging_face(model) -> None:
    samples = draw(model)
    lengths = {len(drawn.ids) for drawn in samples}
    assert len(lengths) > 5
    assert {drawn.finished for drawn in samples} == {True, False}
    for index, drawn in enumerate(samples):
        scores = scores_after(model, PROMPTS[index // 20], drawn.ids)
        taken = scores.gather(1, torch.tensor(drawn.ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(drawn.log_probs), taken, atol=1e-4, rtol=1e-4)
        entropies = -(scores.exp() * scores).sum(-1)
        torch.testing.assert_close(torch.tensor(drawn.entropies), entropies, atol=1e-4, rtol=1e-4)


def test_a_sample_ends_with_the_turn_or_is_cut(model) -> None:
    end = model.config.eos_token_id
    for drawn in draw(model):
        assert drawn.ids.count(end) == drawn.finished
        assert drawn.ids[-1] == end or len(drawn.ids) == 40


def test_the_tokens_are_drawn_from_the_models_distribution(model) -> None:
    firsts = [s.ids[0] for s in draw(model, copies=3000, max_new_tokens=1)[:3000]]
    p = scores_after(model, PROMPTS[0], [0])[0].exp()
    for token in p.topk(5).indices.tolist():
        share, expected = firsts.count(token) / 3000, p[token].item()
        assert abs(share - expected) < 4 * (expected * (1 - expected) / 3000) ** 0.5


def test_samples_depend_on_the_generator_alone(model) -> None:
    assert draw(model, 1) == draw(model, 1) != draw(model, 2)


def test_without_temperature_it_takes_the_most_probable_token(model) -> None:
    for index, drawn in enumerate(draw(model, copies=2, temperature=0.0)):
        scores = scores_after(model, PROMPTS[index // 2], drawn.ids)
        best = scores.max(-1).values
        torch.testing.assert_close(torch.tensor(drawn.log_probs), best, atol=1e-4, rtol=1e-4)


def test_banned_tokens_stay_out_until_the_think_block_ends(model) -> None:
    free = draw(model)
    tokens = [i for drawn in free for i in drawn.ids]
    think_end = max(set(tokens) - {model.config.eos_token_id}, key=tokens.count)
    others = sorted(set(tokens) - {think_end, model.config.eos_token_id})
    banned = Random(0).sample(others, len(others) // 2)
    after = 0
    for drawn in draw(model, banned=banned, think_end=think_end):
        place = drawn.ids.index(think_end) if think_end in drawn.ids else len(drawn.ids)
        assert not set(drawn.ids[:place]) & set(banned)
        after += bool(set(drawn.ids[place:]) & set(banned))
    assert after


def test_free_samples_write_banned_tokens_and_log_probabilities_are_the_models(model) -> None:
    end = model.config.eos_token_id
    banned = [token for token in range(0, model.config.vocab_size, 2) if token != end]
    samples = draw(model, banned=banned, free=15)
    wrote = [bool(set(drawn.ids) & set(banned)) for drawn in samples]
    for first in range(0, len(samples), 20):
        assert sum(wrote[first : first + 15]) > 10
        assert not any(wrote[first + 15 : first + 20])
    for index in (16, 37):
        scores = scores_after(model, PROMPTS[index // 20], samples[index].ids)
        taken = scores.gather(1, torch.tensor(samples[index].ids)[:, None])[:, 0]
        found = torch.tensor(samples[index].log_probs)
        torch.testing.assert_close(found, taken, atol=1e-4, rtol=1e-4)
