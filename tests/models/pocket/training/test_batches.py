from random import Random

import torch

from mi_lens.models.pocket.training.batches import IGNORED, cut_batches, make_targets, write_texts
from mi_lens.models.pocket.training.tokenization import build_tokenizer


def test_prompts_and_padding_are_not_targets() -> None:
    think, pad = 90, 99
    ids = torch.tensor([[1, 2, think, 3, 4, pad], [5, 6, 7, 8, pad, pad]])
    assert make_targets(ids, think, pad).tolist() == [
        [IGNORED, IGNORED, 3, 4, IGNORED, IGNORED],
        [6, 7, 8, IGNORED, IGNORED, IGNORED],
    ]


def test_batches_hold_every_text_once_and_stay_small() -> None:
    texts = [[i + 1] * (i % 7 + 1) for i in range(50)]
    batches = cut_batches(texts, batch_tokens=20, pad=0, rng=Random(0))
    assert all(batch.numel() <= 20 for batch in batches)
    rows = [[t for t in row if t] for batch in batches for row in batch.tolist()]
    assert sorted(rows) == sorted(texts)


def test_texts_are_written_from_the_generator() -> None:
    tokenizer = build_tokenizer(corpus_size=50)
    first, again, plain, optional = (
        write_texts(6, 0.3, False, model, Random(0), tokenizer)
        for model in ("pocket-reasoner", "pocket-reasoner", "pocket-base", "pocket-rl-base")
    )
    assert first == again != plain != optional != first
