import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_lens.problems.problem import Problem
from mi_lens.traces.matched_thoughts import matched_thoughts
from mi_lens.traces.thoughts import split_thoughts
from mi_lens.traces.trace import Trace

WORDS = ["Wait", "Hmm"]
OPENERS = ("Wait, let me think.", "Hmm, so.", "12 * 7 = 84.", "I am sure.", "Alternatively, 84.")


def trace_of(tokenizer, thoughts, number=0, tail=""):
    text = "\n\n".join(["Okay.", *thoughts]) + "\n</think>\n\n\\boxed{84}." + tail
    problem = Problem(str(number), f"What is 12 * {number}?", "84")
    return replace(Trace.from_text(tokenizer, problem, text), id=f"trace {number}")


def matched(tokenizer, traces, at_peaks, **settings):
    """Thoughts at peaks are given as (trace, thought) numbers; the entropy of a step is drawn."""
    peaks = []
    for place, trace in enumerate(traces):
        thoughts = split_thoughts(tokenizer, trace)
        peaks.append([t.stop - 1 for i, t in enumerate(thoughts) if (place, i) in at_peaks])
    entropy = [np.random.default_rng(i).random(len(trace)) for i, trace in enumerate(traces)]
    found = matched_thoughts(tokenizer, traces, peaks, entropy, WORDS, **settings)
    return found, entropy


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.lists(st.sampled_from(OPENERS), min_size=1, max_size=5), min_size=1, max_size=5),
    st.sets(st.tuples(st.integers(0, 4), st.integers(0, 4))),
    st.sampled_from([None, 0.5, 2.0]),
)
def test_properties(tokenizer, texts, at_peaks, caliper):
    traces = [trace_of(tokenizer, thoughts, i) for i, thoughts in enumerate(texts)]
    found, entropy = matched(tokenizer, traces, at_peaks, caliper=caliper)
    peaks = [peak for peak, _ in found.pairs] + list(found.unmatched)
    wanted = {(i, j) for i, j in at_peaks if i < len(texts) and j < len(texts[i])}
    assert len(peaks) == len(wanted) == len({(p.trace, p.thought.start) for p in peaks})
    assert found.others == sum(map(len, texts)) - len(wanted)
    controls = [(c.trace, c.thought.start) for _, c in found.pairs]
    assert len(set(controls)) == len(controls)  # no control is used twice
    assert not set(controls) & {(p.trace, p.thought.start) for p in peaks}
    for peak, control in found.pairs:
        assert peak.opening == control.opening
        assert peak.thought.thought_class == control.thought.thought_class
        assert int(10 * peak.position) == int(10 * control.position)
    for placed in itertools.chain(peaks, *found.pairs):
        place = int(placed.trace.split()[1])
        assert placed.problem == traces[place].require_problem("here").key
        start = placed.thought.start
        first = tokenizer.decode([traces[place].token_ids[start]]).strip()
        kind = "thinking word" if first in WORDS else "number" if first.isdigit() else "other"
        assert placed.opening == kind
        assert placed.entropy == entropy[place][start]
        assert placed.position == start / len(traces[place])
        assert placed.length == placed.thought.stop - start
    for name in ("opens with number", "is reflection"):
        if found.balance and found.balance[name].after is not None:
            assert found.balance[name].after == 0
    chosen = found.thoughts_of(traces)
    assert sum(map(len, chosen)) == 2 * len(found.pairs)


def best_by_trying(peaks, controls, spread, caliper):
    """The most pairs of the smallest sum, over all ways to pair."""

    def vector(placed):
        return np.array([placed.entropy, placed.position, placed.length]) / spread

    best = (0, 0.0)
    for size in range(1, min(len(peaks), len(controls)) + 1):
        for chosen in itertools.combinations(peaks, size):
            for partners in itertools.permutations(controls, size):
                apart = [
                    np.linalg.norm(vector(a) - vector(b))
                    for a, b in zip(chosen, partners, strict=True)
                ]
                if max(apart) <= caliper:
                    best = min(best, (-size, sum(apart)))
    return -best[0], best[1]


@pytest.mark.parametrize("caliper", [1.0, 1.5, np.inf])
def test_as_many_and_as_near_as_can_be(tokenizer, caliper):
    # All of one length in all, so that all thoughts begin in one tenth of their traces.
    traces = [trace_of(tokenizer, [f"I am{' so' * i}."], i, tail=" so" * (7 - i)) for i in range(8)]
    at_peaks = {(i, 0) for i in (1, 4, 6)}
    found, _ = matched(tokenizer, traces, at_peaks, caliper=None if np.isinf(caliper) else caliper)
    whole, _ = matched(tokenizer, traces, {(i, 0) for i in range(8)})
    every = {placed.trace: placed for placed in whole.unmatched}
    assert not whole.pairs
    assert whole.others == 0
    values = np.array([[p.entropy, p.position, p.length] for p in every.values()])
    spread = values.std(0, ddof=1)
    spread[spread == 0] = 1
    number = total = 0
    strata = {placed.stratum for placed in every.values()}
    for stratum in strata:
        alike = [placed for placed in every.values() if placed.stratum == stratum]
        peaks = [p for p in alike if (int(p.trace.split()[1]), 0) in at_peaks]
        others = [p for p in alike if p not in peaks]
        pairs, apart = best_by_trying(peaks, others, spread, caliper)
        number, total = number + pairs, total + apart
    assert len({placed.stratum for placed in every.values()}) == 1
    assert number == 3 or caliper < np.inf
    assert len(found.pairs) == number
    apart = [
        np.linalg.norm(
            np.array([a.entropy - b.entropy, a.position - b.position, a.length - b.length]) / spread
        )
        for a, b in found.pairs
    ]
    assert sum(apart) == pytest.approx(total)


def test_balance_and_contrast(tokenizer):
    traces = [trace_of(tokenizer, ["I am sure.", "Wait, let me think."], i) for i in range(6)]
    found, entropy = matched(tokenizer, traces, {(0, 0), (1, 0), (0, 1)})
    assert len(found.pairs) == 3
    starts = [[t.start for t in split_thoughts(tokenizer, trace)] for trace in traces]
    at_peaks = [entropy[0][starts[0][0]], entropy[1][starts[1][0]], entropy[0][starts[0][1]]]
    others = [
        entropy[i][start]
        for i, of_trace in enumerate(starts)
        for j, start in enumerate(of_trace)
        if (i, j) not in {(0, 0), (1, 0), (0, 1)}
    ]
    spread = np.sqrt((np.var(at_peaks, ddof=1) + np.var(others, ddof=1)) / 2)
    balance = found.balance["entropy"]
    assert balance.before == pytest.approx((np.mean(at_peaks) - np.mean(others)) / spread)
    after = [a.entropy - b.entropy for a, b in found.pairs]
    assert balance.after == pytest.approx(np.mean(after) / spread)

    values: dict[tuple[str, int], float | None] = {
        (p.trace, p.thought.start): 0.0 for pair in found.pairs for p in pair
    }
    for number, (peak, _) in enumerate(found.pairs):
        values[peak.trace, peak.thought.start] = number + 1.0
    contrast = found.contrast(values)
    assert contrast.difference.mean == contrast.peaks.mean == 2
    assert contrast.controls.mean == 0
    assert (contrast.pairs, contrast.left_out) == (3, 0)
    assert contrast.difference.n == len({p.problem for pair in found.pairs for p in pair})
    control = found.pairs[0][1]
    values[control.trace, control.thought.start] = None
    contrast = found.contrast(values)
    assert (contrast.pairs, contrast.left_out) == (2, 1)
    assert contrast.difference.mean == 2.5
    del values[control.trace, control.thought.start]
    with pytest.raises(
        ValueError, match=f"no value for the thought at step {control.thought.start}"
    ):
        found.contrast(values)


def test_nothing_to_match(tokenizer):
    bare = Trace.from_text(tokenizer, Problem("9", "What?", "84"), "It is \\boxed{84}.")
    found, _ = matched(tokenizer, [bare], set())
    assert found.pairs == found.unmatched == ()
    assert found.others == 0
    assert found.balance == {}
    assert found.contrast({}).difference.mean is None
    assert found.contrast({}).pairs == 0
    assert matched(tokenizer, [], set())[0].pairs == ()


def test_errors(tokenizer):
    trace = trace_of(tokenizer, OPENERS)
    entropy = np.zeros(len(trace))

    def attempt(traces=(trace,), peaks=((3,),), entropies=(entropy,), words=WORDS, **settings):
        matched_thoughts(tokenizer, traces, peaks, entropies, words, **settings)

    with pytest.raises(ValueError, match="1 traces, 2 lists of peaks and 1 arrays"):
        attempt(peaks=((3,), (4,)))
    with pytest.raises(ValueError, match="have the same id"):
        attempt((trace, trace), ((3,), (3,)), (entropy, entropy))
    with pytest.raises(ValueError, match="expected one entropy per step"):
        attempt(entropies=(entropy[1:],))
    with pytest.raises(ValueError, match="peaks among the steps"):
        attempt(peaks=((len(trace),),))
    with pytest.raises(ValueError, match="has no problem to compare thoughts by"):
        attempt((replace(trace, problem=None),))
    with pytest.raises(ValueError, match="caliper=-1"):
        attempt(caliper=-1.0)
    with pytest.raises(ValueError, match="no words given"):
        attempt(words=[])
