from dataclasses import replace

import numpy as np
import pytest

from mi_lens.evaluation.word_contrast import contrast_words
from mi_lens.problems.problem import Problem
from mi_lens.traces.trace import Trace

WORDS = ("that", "again", "so", "the", "was")  # one token each


def trace(tokenizer, problem, words, right):
    text = f" {' '.join(words)} \\boxed{{{problem if right else '0' * len(problem)}}}"
    return Trace.from_text(tokenizer, Problem(problem, f"What is {problem}?", problem), text)


def count(tokenizer, trace, word):
    strings = [tokenizer.decode([t]).strip().lower() for t in trace.token_ids]
    return strings.count(word) / len(strings)


def test_rates_are_compared_within_problems(tokenizer):
    traces = [
        trace(tokenizer, "7", ["that", "so"], True),
        trace(tokenizer, "7", ["so", "so", "so"], False),
        trace(tokenizer, "7", ["that", "that", "so"], True),
        trace(tokenizer, "8", ["so"], True),
        trace(tokenizer, "8", ["that", "again"], False),
        trace(tokenizer, "9", ["that"], True),  # never wrong
    ]
    contrast = contrast_words(tokenizer, traces, minimum_problems=1)
    assert (contrast.problems, contrast.right, contrast.wrong, contrast.left_out) == (2, 3, 2, 1)
    rows = {row.word: row for row in contrast.rows}
    for word in ("that", "so", "again"):
        rate = [count(tokenizer, written, word) for written in traces]
        right = ((rate[0] + rate[2]) / 2 + rate[3]) / 2
        wrong = (rate[1] + rate[4]) / 2
        assert rows[word].right == pytest.approx(right)
        assert rows[word].wrong == pytest.approx(wrong)
        assert rows[word].difference.mean == pytest.approx(right - wrong)
        assert rows[word].difference.n == 2
    common = {row.word for row in contrast_words(tokenizer, traces, minimum_problems=2).rows}
    assert "again" in rows
    assert "again" not in common
    assert {"that", "so"} <= common


def test_answers_are_compared_as_numbers(tokenizer):
    problem = Problem("p", "What is 3 + 4?", "7")
    texts = [f" so the \\boxed{{{answer}}}" for answer in ("7", "+07", "8")]
    traces = [Trace.from_text(tokenizer, problem, text) for text in texts]
    contrast = contrast_words(tokenizer, traces, minimum_problems=1, draws=99)
    assert (contrast.right, contrast.wrong) == (2, 1)


def sample(tokenizer, problems, shift, seed=0):
    """Six traces a problem; right ones write "again" more often by `shift`."""
    rng = np.random.default_rng(seed)
    traces = []
    for i in range(problems):
        base = rng.dirichlet(np.ones(len(WORDS)))
        for k in range(6):
            chance = base.copy()
            chance[1] += shift * (k % 2)
            words = rng.choice(WORDS, 30, p=chance / chance.sum()).tolist()
            traces.append(trace(tokenizer, str(10 + i), words, bool(k % 2)))
    return traces


def test_a_planted_word_is_found(tokenizer):
    contrast = contrast_words(tokenizer, sample(tokenizer, 20, 0.5), draws=2000)
    first = contrast.rows[0]
    assert first.word == "again"
    assert first.p_adjusted < 0.01
    assert first.difference.low is not None
    assert first.difference.low > 0
    # The family is held where nothing differs.
    false = [
        min(r.p_adjusted for r in contrast_words(tokenizer, traces, draws=400).rows) <= 0.05
        for traces in (sample(tokenizer, 8, 0.0, seed) for seed in range(20))
    ]
    assert sum(false) <= 4  # P(more than 4 of 20 at .05) = .003


def test_words_of_every_trace_say_nothing(tokenizer):
    """All rates of these words are equal, and rounding must not make a finding of them."""
    rows = contrast_words(tokenizer, sample(tokenizer, 8, 0.5), draws=400).rows
    assert {row.p_adjusted for row in rows if row.word in ("box", "ed")} == {1.0}


def test_errors(tokenizer):
    right = trace(tokenizer, "7", ["so"], True)
    with pytest.raises(ValueError, match="none of 1 problems has both right and wrong"):
        contrast_words(tokenizer, [right, right])
    with pytest.raises(ValueError, match="no word stands in traces of 5 of the 1 problems"):
        contrast_words(tokenizer, [right, trace(tokenizer, "7", ["so"], False)])
    bare = Trace("x", "m", "p", (1,), (2,), "t", "eos")
    with pytest.raises(ValueError, match="trace x has no problem to grade it by"):
        contrast_words(tokenizer, [bare])
    with pytest.raises(ValueError, match="trace x has no tokens"):
        contrast_words(tokenizer, [replace(right, id="x", token_ids=())])


def test_words_of_text_alone_by_the_author_s_labels():
    traces = [
        Trace.from_text(
            None,
            Problem(str(i), f"What is {i}?", ""),
            "<think>Wait, so it is Wait" if right else "<think>Hmm so it is",
            seed=int(right),
            is_correct=right,
        )
        for i in range(6)
        for right in (True, False)
    ]
    contrast = contrast_words(None, traces, labels="author", draws=99)
    rates = {row.word: (row.right, row.wrong) for row in contrast.rows}
    assert (contrast.problems, contrast.right, contrast.wrong) == (6, 6, 6)
    assert rates["wait"] == pytest.approx((2 / 6, 0))
    assert rates["so"] == pytest.approx((1 / 6, 1 / 4))
