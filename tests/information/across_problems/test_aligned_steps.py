from collections import Counter

import numpy as np
import pytest
import torch

from mi_lens.information.across_problems.aligned_steps import (
    AlignedSteps,
    at_answer,
    at_boundary,
    at_fraction,
    at_token,
    matched_tokens,
)
from mi_lens.traces.trace import Trace
from mi_lens.traces.vocabulary import TokenSet

TEXTS = (
    "So this is 7.\n\nWait, is this so? So it is 8.\n\n The answer is \\boxed{79}.",
    "Wait. So so\n\nso \\boxed{ 8 }",
    "this is no answer: \\boxed{12",
)
COUNTING = [[float(step) for step in range(100)]] * len(TEXTS)


@pytest.fixture(scope="module")
def traces(tokenizer):
    return [Trace.from_text(tokenizer, f"q{i}", text) for i, text in enumerate(TEXTS)]


def emitted(tokenizer, traces, aligned: AlignedSteps, shift: int = 0) -> list[str | None]:
    return [
        None if step is None else trace.token_strings(tokenizer)[step + shift]
        for trace, step in zip(traces, aligned.steps, strict=True)
    ]


def test_fractions_run_from_the_first_to_the_last_step(traces):
    assert at_fraction(traces, 0.0).steps == (0, 0, 0)
    assert at_fraction(traces, 1.0).steps == tuple(len(trace) - 1 for trace in traces)
    middle = at_fraction(traces, 0.5)
    for trace, step in zip(traces, middle.steps, strict=True):
        assert step is not None
        assert abs(step - (len(trace) - 1) / 2) <= 0.5
    with pytest.raises(ValueError, match=r"fraction=1\.5"):
        at_fraction(traces, 1.5)


def test_boundaries(tokenizer, traces):
    for number, present in ((1, (0, 1)), (2, (0,)), (3, ())):
        aligned = at_boundary(tokenizer, traces, number)
        assert aligned.present == present
        strings = emitted(tokenizer, traces, aligned)
        assert all("\n\n" in string for string in strings if string is not None)
    first = at_boundary(tokenizer, traces, 1)
    second = at_boundary(tokenizer, traces, 2)
    assert first.steps[0] is not None
    assert second.steps[0] is not None
    assert first.steps[0] < second.steps[0]
    before = "".join(traces[0].token_strings(tokenizer)[: first.steps[0]])
    assert "\n\n" not in before
    assert before.startswith("So this is 7")


def test_before_at_and_after_a_token(tokenizer, traces):
    so = TokenSet.of(tokenizer, ["so"]).ids
    at = at_token(traces, so, 1)
    after = at_token(traces, so, 1, offset=1)
    before = at_token(traces, so, 1, offset=-1)
    assert at.present == (0, 1)
    for i in at.present:
        step = at.steps[i]
        assert step is not None
        assert traces[i].token_ids[step] in so  # the state at offset 0 emits it
        assert not set(traces[i].token_ids[:step]) & so
        if after.steps[i] is not None:
            assert traces[i].consumed_ids[after.steps[i]] in so  # the state at offset 1 has read it
    assert at.steps[0] == 0
    assert before.steps == (None, at.steps[1] - 1 if at.steps[1] else None, None)
    second = at_token(traces, so, 2)
    assert second.present == (0, 1)
    assert all(a < b for a, b in zip(at.values(COUNTING), second.values(COUNTING), strict=True))
    assert (at.name, after.name) == ("thinking token 1", "thinking token 1 +1")


def test_tokens_that_cannot_be_found_are_refused(traces):
    with pytest.raises(ValueError, match="none of 3 traces emits a thinking token"):
        at_token(traces, [10**6], 1)
    with pytest.raises(ValueError, match="number=0"):
        at_token(traces, traces[0].token_ids[:1], 0)


def test_the_last_step_before_the_answer_emits_its_first_token(tokenizer, traces):
    aligned = at_answer(tokenizer, traces)
    assert aligned.present == (0, 1)  # the third is cut off inside its box
    strings = emitted(tokenizer, traces, aligned)
    assert strings[0] is not None
    assert strings[1] is not None
    assert "7" in strings[0]
    assert "8" in strings[1]
    for i in aligned.present:
        read = "".join(traces[i].token_strings(tokenizer)[: aligned.steps[i]])
        assert "\\boxed" in read
        assert not read.endswith(("7", "8"))
    step = aligned.steps[0]
    assert step is not None
    assert at_answer(tokenizer, traces, -2).steps[0] == step - 2
    assert at_answer(tokenizer, traces, 10**6).present == ()


def test_states_and_values_of_the_traces_that_have_the_step(traces):
    aligned = AlignedSteps("third", (2, None, 0))
    states = [torch.arange(10.0).reshape(5, 2) + 100 * i for i in range(3)]
    assert aligned.states(states).tolist() == [[4, 5], [200, 201]]
    assert aligned.values([[1.0, 2.0, 3.0], [], [7.0]]).tolist() == [3, 7]
    with pytest.raises(ValueError, match="2 sequences for 3 traces"):
        aligned.states(states[:2])
    with pytest.raises(ValueError, match="step 2 of trace 0, which has 1"):
        aligned.values([[1.0], [], [7.0]])
    with pytest.raises(ValueError, match="none of 2 traces has this step"):
        AlignedSteps("nowhere", (None, None)).states(states[:2])


def test_matched_tokens_are_ordinary_and_as_frequent(tokenizer):
    rng = np.random.default_rng(0)
    words = ["so", "this", "the", "was", "wrong", "right", "is", "84", "79"]
    texts = [" " + " ".join(rng.choice(words, size=60)) for _ in range(5)]
    traces = [Trace.from_text(tokenizer, f"q{i}", text) for i, text in enumerate(texts)]
    counts = Counter(token for trace in traces for token in trace.token_ids)
    so = TokenSet.of(tokenizer, ["so", "this"]).ids
    matched = matched_tokens(tokenizer, traces, so, seed=1)
    assert matched.keys() == so & counts.keys()
    assert not set(matched.values()) & so
    assert len(set(matched.values())) == len(matched)
    for token, other in matched.items():
        assert 0.5 <= counts[other] / counts[token] <= 2
        assert any(c.isalpha() for c in tokenizer.decode([other]))
    assert matched == matched_tokens(tokenizer, traces, so, seed=1)
    draws = {tuple(matched_tokens(tokenizer, traces, so, seed=s).values()) for s in range(9)}
    assert len(draws) > 1


def test_what_cannot_be_matched_is_refused(tokenizer):
    trace = Trace.from_text(tokenizer, "q", " so so so so so so this")
    so = TokenSet.of(tokenizer, ["so"]).ids
    with pytest.raises(ValueError, match="is emitted 6 times"):
        matched_tokens(tokenizer, [trace], so)
    with pytest.raises(ValueError, match="none of 1 traces emits"):
        matched_tokens(tokenizer, [trace], TokenSet.of(tokenizer, ["the"]).ids)
