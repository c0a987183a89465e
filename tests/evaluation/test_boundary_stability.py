from dataclasses import replace

import pytest

from mi_lens.evaluation.boundary_stability import (
    BoundaryStability,
    Rewritten,
    boundary_stability,
)
from mi_lens.generation.generate import generate
from mi_lens.generation.request import Request
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.sampling import Sampling
from mi_lens.models.loading import load
from mi_lens.problems.loading import load_problems
from mi_lens.problems.problem import Problem
from mi_lens.steering.seal import extract_steering_vectors
from mi_lens.traces.thoughts import classify, split_thoughts
from mi_lens.traces.trace import Trace

HOT = Sampling(1.5)


@pytest.fixture(scope="module")
def pocket():
    return load("pocket-reasoner", device="cpu", backend="hooked")


@pytest.fixture(scope="module")
def traces(pocket):
    problems = load_problems("pocket", split="train", limit=2)
    return generate(pocket, problems, max_new_tokens=320, progress=False)


@pytest.fixture(scope="module")
def stability(pocket, traces):
    return boundary_stability(pocket, traces, samples=3, least=0.6, sampling=HOT)


def test_shares_are_those_of_thoughts_written_one_by_one(pocket, traces, stability):
    thoughts = [(t, thought) for t in traces for thought in split_thoughts(pocket.tokenizer, t)]
    assert [(r.trace, r.start, r.thought_class) for r in stability.rewritten] == [
        (trace.id, thought.start, thought.thought_class) for trace, thought in thoughts
    ]
    for (trace, thought), found in list(zip(thoughts, stability.rewritten, strict=True))[::4]:
        prefix = trace.token_ids[: thought.start]
        for seed, kind in zip((1, 2, 3), found.again, strict=True):  # the trace's own is 0
            request = Request(
                trace.problem, Condition((), HOT), seed=seed, prefix=prefix,
                max_new_tokens=len(prefix) + 128,
            )  # fmt: skip
            (again,) = generate(pocket, [request], progress=False)
            new = pocket.tokenizer.decode(again.token_ids[thought.start :])
            text = new.partition("</think>")[0].partition("\n\n")[0].strip()
            assert kind == (classify(text) if text else None)
    shares = {r.share for r in stability.rewritten}
    assert len(shares) > 1  # so hot, some boundaries are not stable
    assert all(
        r.problem == t.problem.key for r, (t, _) in zip(stability.rewritten, thoughts, strict=True)
    )


def test_vectors_from_stable_boundaries_alone(pocket, traces, stability):
    counts = stability.counts
    assert sum(of for _, of in counts.values()) == len(stability.rewritten)
    kept = {kind: stable for kind, (stable, _) in counts.items()}
    assert 0 < sum(kept.values()) < len(stability.rewritten)
    name = "blocks.2.hook_resid_post"
    recipe = "E-RT" if kept["reflection"] + kept["transition"] else None
    if recipe is None:
        with pytest.raises(ValueError, match="no reflection or transition"):
            extract_steering_vectors(pocket, traces, [name], only=stability.is_stable)
        return
    vector = extract_steering_vectors(pocket, traces, [name], only=stability.is_stable)[name]
    assert vector.counts == kept


def rewritten(trace, kind, again, problem="p", start=1):
    return Rewritten(trace, problem, start, kind, again)


def test_counts_and_shares():
    e, r, t = "execution", "reflection", "transition"
    parts = (
        rewritten("a", e, (e, e, e, r)),
        rewritten("a", r, (r, e, None, r), start=9),
        rewritten("b", r, (r, r, r, r), problem="q"),
        rewritten("b", t, (e, e, e, e), problem="q", start=5),
    )
    stability = BoundaryStability(parts, "seal", 0.75, 4)
    assert [part.share for part in parts] == [0.75, 0.5, 1.0, 0.0]
    assert stability.counts == {e: (1, 1), r: (1, 2), t: (0, 1)}
    share = stability.stable_share(r, t)
    assert (share.mean, share.n) == ((0 + 0.5) / 2, 2)
    assert stability.stable_share().mean == pytest.approx(0.5)
    assert replace(stability, least=0.5).counts[r] == (2, 2)
    assert "1 of 2 reflection" in repr(stability)
    assert "1 of 2" in stability._repr_html_()
    for least in (0.0, 1.1):
        with pytest.raises(ValueError, match="least="):
            replace(stability, least=least)


def test_what_cannot_be_done_is_named(pocket, traces, stability, tiny_model, tokenizer):
    with pytest.raises(ValueError, match="temperature=0"):
        boundary_stability(pocket, traces, sampling=Sampling())
    with pytest.raises(ValueError, match="samples=0"):
        boundary_stability(pocket, traces, samples=0)
    for few in ([], traces[:0]):
        with pytest.raises(ValueError, match="no thoughts in 0 traces"):
            boundary_stability(pocket, few)
    with pytest.raises(ValueError, match="has another prompt than style='raw'"):
        boundary_stability(pocket, traces, style="raw")
    problem = Problem("set/a", "What is 12 * 7?", "84")
    bare = Trace.from_text(tokenizer, problem, "no boundary at all")
    with pytest.raises(ValueError, match="no thoughts in 1 traces"):
        boundary_stability(tiny_model, [bare])
    other = Trace.from_text(tokenizer, problem, "Okay.\n\nOne thought")
    (thought,) = split_thoughts(tokenizer, other)
    with pytest.raises(ValueError, match="was not written again"):
        stability.is_stable(other, thought)
    # A trace of one thought.
    one = boundary_stability(tiny_model, [other], samples=2, most=4)
    assert len(one.rewritten) == 1
