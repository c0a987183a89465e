from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mi_lens.information.per_trace.belief import AnswerBelief, Belief
from mi_lens.information.per_trace.comes_first import Marked, marks_of, what_comes_first
from mi_lens.information.per_trace.measurement import Measurement
from mi_lens.information.per_trace.peak_rules import TopK
from mi_lens.traces.trace import Trace


def random_traces(rng):
    """Some traces with marks of three kinds, one of which can stand at a few steps only."""
    traces = []
    for _ in range(rng.integers(1, 5)):
        every = range(int(rng.integers(1, 8)))
        some = sorted(rng.choice(10, int(rng.integers(1, 5)), replace=False).tolist())
        places = {"peaks": every, "words": every, "cuts": some}
        marked = {
            kind: rng.choice(among, int(rng.integers(len(among) + 1)), replace=False).tolist()
            for kind, among in places.items()
        }
        traces.append({kind: Marked(marked[kind], among) for kind, among in places.items()})
    return traces


def won_by(marks, kind):
    """The part of a trace that a kind has."""
    firsts = {name: min(of.steps) for name, of in marks.items() if of.steps}
    leaders = [name for name, step in firsts.items() if step == min(firsts.values())]
    return (kind in leaders) / max(1, len(leaders))


def shifts_of(marks, kind):
    """The trace with the marks of a kind shifted, in every way."""
    steps, among = marks[kind].steps, list(marks[kind].among)
    for shift in range(len(among)):
        places = [(among.index(step) + shift) % len(among) for step in steps]
        yield {**marks, kind: Marked([among[place] for place in places], among)}


@given(st.integers(0, 2**32))
def test_shares_and_chance_are_those_of_all_shifts(seed):
    rng = np.random.default_rng(seed)
    traces = random_traces(rng)
    problems = rng.choice(["a", "b"], len(traces)).tolist()
    found = what_comes_first(traces, problems, draws=10)
    for kind, row in found.items():
        shares, chances = {}, {}
        for marks, problem in zip(traces, problems, strict=True):
            shares.setdefault(problem, []).append(won_by(marks, kind))
            chance = np.mean([won_by(other, kind) for other in shifts_of(marks, kind)])
            chances.setdefault(problem, []).append(chance)
        share, chance = (
            np.mean([np.mean(values) for values in of.values()]) for of in (shares, chances)
        )
        assert row.share.mean == pytest.approx(share)
        assert row.chance == pytest.approx(chance)
        assert row.excess.mean == pytest.approx(share - chance, abs=1e-12)
        assert row.share.n == len(set(problems))
        assert row.traces == sum(bool(marks[kind].steps) for marks in traces)


def test_the_p_value_is_that_of_all_shifts():
    """Two traces of three and four places: twelve ways to shift."""
    traces = [
        {"a": Marked([0], range(3)), "b": Marked([1], range(3))},
        {"a": Marked([1, 2], range(4)), "b": Marked([2], range(4))},
    ]
    ways = [
        np.mean([won_by(one, "a"), won_by(two, "a")])
        for one, two in product(shifts_of(traces[0], "a"), shifts_of(traces[1], "a"))
    ]
    found = what_comes_first(traces, draws=20_000)["a"]
    assert found.share.mean == 1
    expected = np.mean([way >= 1 for way in ways])
    assert found.p_value == pytest.approx(expected, abs=0.01)


def test_many_marks_that_stand_anywhere_are_not_early():
    """The more frequent kind is first nearly always, and not more often than by chance."""
    rng = np.random.default_rng(0)
    traces = [
        {
            "many": Marked(rng.choice(100, 20, replace=False).tolist(), range(100)),
            "one": Marked([int(rng.integers(100))], range(100)),
        }
        for _ in range(200)
    ]
    found = what_comes_first(traces, draws=500)
    assert (found["many"].share.mean or 0) > 0.9
    excess = found["many"].excess
    assert excess.low is not None
    assert excess.high is not None
    assert excess.low < 0 < excess.high
    assert found["many"].p_value > 0.05
    early = [{"many": marks["many"], "one": Marked([0], range(100))} for marks in traces]
    found = what_comes_first(early, draws=500)["one"]
    assert (found.excess.low or 0) > 0.5
    assert found.p_value == pytest.approx(1 / 501)


def trace_of(steps):
    return Trace("t", "m", "?", (0,), tuple(range(steps)), "text", "eos")


def measurement_of(mi, entropy):
    covariates = {"entropy": np.array(entropy, dtype=float)}
    return Measurement(np.array(mi, dtype=float), None, covariates, {}, 0)


def test_marks_of_a_trace():
    trace = trace_of(8)
    measurement = measurement_of([0, 0, 5, 0, 0, 0, 0, 9], [0, 7, 0, 0, 0, 0, 8, 0])
    final = AnswerBelief("84", (9.0, 9.0, 0.1, 0.0), (1,) * 4, (1,) * 4)
    belief = Belief("t", "p", (0, 2, 4, 6), None, final, ("1", "1", "1", "84"))
    marks = marks_of(trace, measurement, belief, {1, 5, 7}, rule=TopK(2))
    assert {name: list(of.steps) for name, of in marks.items()} == {
        "MI peaks": [2],  # step 7 is behind the thinking
        "thinking words": [1, 5],
        "entropy peaks": [1],
        "belief": [6],
    }
    assert list(marks["belief"].among) == [0, 2, 4, 6]
    assert list(marks["MI peaks"].among) == list(range(6))
    jump = marks_of(trace, measurement, belief, {1}, rule=TopK(2), mark="jump")["belief"]
    assert (list(jump.steps), list(jump.among)) == ([4], [2, 4, 6])
    by_probability = marks_of(trace, measurement, belief, {1}, rule=TopK(2), threshold=0.9)
    assert list(by_probability["belief"].steps) == [4]
    silent = Belief("t", "p", (0, 6), None, None, ("1", "1"))
    for mark in ("settled", "jump"):
        none = marks_of(trace, measurement, silent, (), rule=TopK(2), mark=mark)
        assert list(none["belief"].steps) == list(none["thinking words"].steps) == []
    less = AnswerBelief("8", (1.0, 2.0), (1, 1), (1, 1))
    falling = Belief("t", "p", (0, 6), None, less, ("8", "8"))
    assert not marks_of(trace, measurement, falling, (), mark="jump")["belief"].steps


def test_errors():
    with pytest.raises(ValueError, match="at least one trace"):
        what_comes_first([])
    kinds = {"a": Marked([0], range(3))}
    with pytest.raises(ValueError, match="the same kinds of marks"):
        what_comes_first([kinds, {"b": kinds["a"]}])
    with pytest.raises(ValueError, match="expected one per row"):
        what_comes_first([kinds], ["p", "q"])
    for steps in ([5], [0, 0]):
        with pytest.raises(ValueError, match="expected steps of `among`"):
            Marked(steps, range(3))
    belief = Belief("u", None, (0,), None, None, ("1",))
    with pytest.raises(ValueError, match="the belief of trace u"):
        marks_of(trace_of(4), measurement_of([1, 2, 3, 4], [0] * 4), belief, ())
