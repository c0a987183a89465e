import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from mi_lens.information.across_problems import true_thinking as module
from mi_lens.information.across_problems.true_thinking import (
    TrueThinking,
    true_thinking,
    true_thinking_by_class,
)
from mi_lens.problems.problem import Problem
from mi_lens.traces.thoughts import Thought, split_thoughts
from mi_lens.traces.trace import Trace

ASKING = "\n</think>\n\nThe answer is \\boxed{"
TEXTS = [
    "Okay, 5.\n\n12 * 7 is 84.\n\nWait, let me check.\n\nSo 84.\n</think>\n\nIt is \\boxed{84}.",
    "So\n\nAlternatively, 0 and 79.\n</think>\n\nIt is \\boxed{79}.",
]


@pytest.fixture(scope="module")
def traces(tokenizer):
    return [
        replace(
            Trace.from_text(tokenizer, Problem(str(i), f"What is 12 * 7, {i}?", "84"), text),
            id=f"trace {i}",
        )
        for i, text in enumerate(TEXTS)
    ]


def probability(logits_of, tokenizer, trace, token_ids, answer):
    """By one forward pass over prompt, text, question and answer."""
    before = [*trace.prompt_ids, *token_ids, *tokenizer.encode(ASKING, add_special_tokens=False)]
    wanted = tokenizer.encode(answer, add_special_tokens=False)
    p = logits_of(torch.tensor([[*before, *wanted]]))[0].double().softmax(-1)
    found = 1.0
    for i, token in enumerate(wanted):
        found *= float(p[len(before) + i - 1, token])
    closings = [i for i in range(len(tokenizer)) if tokenizer.decode([i]).startswith("}")]
    return found * float(p[-1, closings].sum())


def test_agrees_with_whole_forward_passes(
    tiny_model, tokenizer, traces, checkpoint, reference, float64_throughout, monkeypatch
):
    """Every number is moved by 2, so that the changed texts can be written down here."""
    monkeypatch.setattr(module, "OFFSETS", (2,))
    theirs = reference(checkpoint("qwen2"))
    scores = true_thinking(tiny_model, traces, asking=ASKING)
    assert [score.trace for score in scores] == ["trace 0"] * 3 + ["trace 1"]
    assert [score.numbers for score in scores] == [3, 0, 1, 2]
    place = 0
    for trace, answer in zip(traces, ("84", "79"), strict=True):
        thoughts = split_thoughts(tokenizer, trace)
        for thought in thoughts:
            score = scores[place]
            place += 1
            assert score.thought == thought
            assert score.problem == trace.problem.key
            ids = list(trace.token_ids)
            context, step = ids[: thought.start], ids[thought.start : thought.stop]

            def moved(tokens):
                text = tokenizer.decode(tokens)
                moved = re.sub(r"\d+", lambda found: str(int(found[0]) + 2), text)
                return tokenizer.encode(moved, add_special_tokens=False)

            expected = []
            for before in (context, moved(context)):
                for changed in (False, True):
                    if not changed:
                        text = [*before, *step]
                    else:
                        text = [*before, *moved(step)] if score.numbers else before[:-1]
                    with float64_throughout():
                        expected.append(
                            probability(lambda x: theirs(x).logits, tokenizer, trace, text, answer)
                        )
            np.testing.assert_allclose([*score.intact, *score.changed], expected, rtol=1e-9)
            a, b, c, d = expected
            assert score.necessity == pytest.approx(a - b, rel=1e-6)
            assert score.sufficiency == pytest.approx(c - d, rel=1e-6)
            assert score.score == pytest.approx((abs(a - b) + abs(c - d)) / 2, rel=1e-6)


def test_the_bridge_agrees(tiny_model, tiny_bridge, traces):
    ours, theirs = (true_thinking(m, traces, asking=ASKING) for m in (tiny_model, tiny_bridge))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.intact + a.changed, b.intact + b.changed, rtol=1e-3)


def test_numbers_move_a_little_and_by_the_seed(tokenizer):
    text = "12 * 7 = 84, and 1,200 - 0.50.\n\n0 of x2"
    trace = Trace.from_text(tokenizer, Problem("0", "What?", "84"), text)
    seen = set()
    for seed in range(20):
        changes = module._changes(tokenizer, trace, seed)
        assert changes == module._changes(tokenizer, trace, seed)
        changed = tokenizer.decode(module._changed(trace.token_ids, changes, 0, len(trace)))
        seen.add(changed)
        found = re.fullmatch(
            r"(\d+) \* (\d+) = (\d+), and (1,\d{3}) - (\d\.50)\.\n\n(\d) of x2", changed
        )
        assert found is not None, changed
        values = [float(value.replace(",", "")) for value in found.groups()]
        for value, before in zip(values, (12, 7, 84, 1200, 0.5, 0), strict=True):
            assert value >= 0
            assert abs(value - before) in (1, 2, 3)
    assert len(seen) > 15
    other = replace(trace, id="another")
    assert module._changes(tokenizer, other, 0) != module._changes(tokenizer, trace, 0)


def test_each_trace_alone_scores_the_same(tiny_model, traces):
    together = true_thinking(tiny_model, traces, asking=ASKING, seed=3)
    alone = [
        s for trace in traces for s in true_thinking(tiny_model, [trace], asking=ASKING, seed=3)
    ]
    assert [s.intact for s in alone] == [s.intact for s in together]
    assert [s.changed for s in alone] == [s.changed for s in together]


def test_no_thoughts_no_scores(tiny_model, tokenizer):
    bare = Trace.from_text(tokenizer, Problem("9", "What?", "84"), "It is \\boxed{84}.")
    assert true_thinking(tiny_model, [bare], asking=ASKING) == []
    assert true_thinking(tiny_model, []) == []


def test_means_are_over_problems():
    def score(problem, kind, intact, changed=(0.5, 0.5)):
        return TrueThinking("t", problem, Thought(kind, "x", 1, 2), 1, intact, changed)

    scores = [
        score("a", "execution", (1.0, 0.0), (0.0, 1.0)),
        score("a", "execution", (0.5, 0.5)),
        score("b", "execution", (0.5, 0.5)),
        score("b", "reflection", (0.25, 0.75)),
    ]
    assert scores[0].score == 1
    assert scores[0].necessity == 1
    assert scores[0].sufficiency == -1
    by_class = true_thinking_by_class(scores)
    assert by_class["execution"].mean == pytest.approx((0.5 + 0) / 2)
    assert by_class["reflection"].mean == pytest.approx(0.25)
    assert by_class["transition"].mean is None


def test_errors(tiny_model, traces):
    def attempt(**changed):
        true_thinking(tiny_model, [replace(traces[0], **changed)], asking=ASKING)

    with pytest.raises(ValueError, match="gives no answer whose probability could change"):
        attempt(text="So what.")
    with pytest.raises(ValueError, match="has no problem to find its answer by"):
        attempt(problem=None)
    with pytest.raises(ValueError, match="under interventions"):
        attempt(condition={"interventions": [{"kind": "Suppress"}]})
    with pytest.raises(ValueError, match="more than the model's context"):
        attempt(prompt_ids=traces[0].prompt_ids * 30)
