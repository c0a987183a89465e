"""Thoughts written anew: by an engine that follows a script, and by a tiny random model."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mi_lens.evaluation.importance import Outcome, importance, outcome_of
from mi_lens.evaluation.resample_thoughts import mean_importance, resample_thoughts
from mi_lens.generation.engines.transformer_lens import TransformerLensEngine
from mi_lens.generation.generate import generate
from mi_lens.generation.request import Request
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.sampling import Sampling
from mi_lens.problems.problem import Problem
from mi_lens.traces.thoughts import split_thoughts
from mi_lens.traces.trace import Trace

PROBLEM = Problem("0", "What is 12 * 7?", "84")
END = "\n</think>\n\nSo \\boxed{%s}."


class ScriptedEngine:
    """Writes what a function of the text so far and of the seed says.

    Attributes:
        asked: Every pair of a prefix and a seed that was asked for, call by call.
    """

    own, name, fingerprint = False, "script", "a script"
    dtype, device = "float32", "cpu"

    def __init__(self, model, script: Callable[[str, int], str]):
        self.model, self.script = model, script
        self.asked: list[list[tuple[tuple[int, ...], int]]] = []

    @staticmethod
    def refusal(request):
        """Nothing is refused."""
        return

    def run(self, jobs, requests, batch_size):
        """Appends the script's text to every row."""
        tokenizer = self.model.tokenizer
        self.asked.append([(tuple(job.row.token_ids), job.row.seed) for job in jobs])
        for job in jobs:
            assert not job.actions
            assert job.sampling.temperature > 0
            text = self.script(tokenizer.decode(job.row.token_ids), job.row.seed)
            job.row.token_ids += tokenizer.encode(text, add_special_tokens=False)
            job.stop_reason = "stop"
            yield job

    def close(self):
        """Holds nothing."""


def trace_of(tokenizer, text, seed=0, problem=PROBLEM):
    return replace(Trace.from_text(tokenizer, problem, text, seed=seed), id=f"trace {seed}")


@pytest.fixture(scope="module")
def guess(tokenizer):
    """A trace whose second thought settles the answer."""
    return trace_of(
        tokenizer, "Okay.\n\nSo let me think.\n\n12 * 7 is 84.\n\nI am sure." + END % 84
    )


def test_a_thought_that_decides_and_one_that_does_not(tiny_model, tokenizer, guess):
    def script(text, seed):
        """Answers the number that the text states last; every second seed states 80."""
        stated = "" if "is 8" in text else f"12 * 7 is {84 - 4 * (seed % 2)}.\n\n"
        number = (text + stated).split("12 * 7 is ")[1][:2]
        return f"{stated}Therefore I am right." + END % number

    engine = ScriptedEngine(tiny_model, script)
    first, second, third = resample_thoughts(engine, [guess], samples=8, seed=1, least=3)
    assert [one.thought.text for one in (first, second, third)] == [
        t.text for t in split_thoughts(tokenizer, guess)
    ]
    # Kept, the second thought fixes 84. Written anew, it is the same for every second seed.
    assert [outcome.answer for outcome in second.kept] == ["84"] * 8
    assert second.differing == 4
    assert [one.differs for one in second.replacements] == [True, False] * 4
    differing = [one.outcome for one in second.replacements if one.differs]
    assert differing == [Outcome("80", False)] * 4
    assert second.importance == importance(second.kept, differing)
    assert second.importance is not None
    assert second.importance.accuracy == second.importance.variation == 1
    # The first thought never comes back, and 84 or 80 follows it as often as it did before.
    assert first.differing == first.gone == 8
    assert first.importance is not None
    assert first.importance.variation == first.importance.accuracy == 0
    assert third.importance is not None
    assert third.importance.accuracy == 0
    assert mean_importance([first, second, third], "accuracy").mean == pytest.approx(1 / 3)
    # The end of a thought is the start of the next: it was continued once.
    (asked,) = engine.asked
    assert len(asked) == len(set(asked)) == 4 * 8
    assert {seed for _, seed in asked} == set(range(1, 9))


def test_too_few_that_differ_give_no_number(tiny_model, guess):
    def script(text, seed):
        if "is 84" in text:
            return END % 84
        return ("12 * 7 is 80." if seed == 3 else "12 * 7 is 84.") + END % 84

    _, thought, _ = resample_thoughts(
        ScriptedEngine(tiny_model, script), [guess], samples=6, least=2, seed=1
    )
    assert thought.differing == 1
    assert thought.importance is None
    assert thought.gone == 1
    assert thought.importance_gone is None
    assert mean_importance([thought]).mean is None
    assert mean_importance([thought]).n == 0


def test_content_that_comes_back_is_written_anew_from_there(tiny_model, tokenizer, guess):
    """It comes back in the first continuation, and in the second of every fourth seed."""
    thought = split_thoughts(tokenizer, guess)[1]
    said = "12 * 7 is 84."

    def script(text, seed):
        if "Hmm, a pause." in text:  # the beginning of a later round
            return (said + "\n\nI am sure." if seed % 4 == 0 else "It is 90.") + END % 90
        return f"Hmm, a pause.\n\n{said}\n\nI am sure." + END % 84

    engine = ScriptedEngine(tiny_model, script)
    settings: Any = {"samples": 4, "seed": 1, "threshold": 0.3}
    (found,) = resample_thoughts(engine, [guess], [[thought]], rounds=2, **settings)
    # Seeds 1 to 4, then 6 to 9 of which 8 is a fourth one, then 11 to 14 of which its turn is 13.
    _, second, third = engine.asked
    assert [seed for _, seed in second] == [6, 7, 8, 9]
    assert [seed for _, seed in third] == [13]
    starts = {tokenizer.decode(prefix).endswith("Hmm, a pause.\n\n") for prefix, _ in second}
    assert starts == {True}
    assert [one.returned for one in found.replacements] == [1, 1, 2, 1]
    assert found.gone == 4
    assert found.resilience == pytest.approx(5 / 4)
    assert [one.last.answer for one in found.replacements] == ["90"] * 4
    # The replacement itself said something else at once.
    assert found.differing == 4
    assert [one.outcome.answer for one in found.replacements] == ["84"] * 4
    assert found.importance_gone is not None
    assert found.importance_gone.variation == 1
    assert found.importance is not None
    # Without rounds, content that came back stays there.
    (found,) = resample_thoughts(engine, [guess], [[thought]], **settings)
    assert found.gone == 0
    assert found.resilience == 1
    assert found.importance_gone is None


def test_a_thought_that_always_comes_back(tiny_model, tokenizer, guess):
    thought = split_thoughts(tokenizer, guess)[1]
    engine = ScriptedEngine(tiny_model, lambda text, seed: "12 * 7 is 84.\n\nSo." + END % 84)
    (found,) = resample_thoughts(engine, [guess], [[thought]], samples=2, least=1, rounds=3)
    assert found.resilience == 4
    assert found.gone == found.differing == 0
    assert len(engine.asked) == 4


def test_leaving_the_think_block_is_a_difference(tiny_model, tokenizer, guess):
    thought = split_thoughts(tokenizer, guess)[2]
    engine = ScriptedEngine(tiny_model, lambda text, seed: "</think>\n\nSo \\boxed{84}.")
    (found,) = resample_thoughts(engine, [guess], [[thought]], samples=3, least=3)
    assert [one.text for one in found.replacements] == [None] * 3
    assert [one.distance for one in found.replacements] == [1.0] * 3
    assert found.differing == found.gone == 3


def test_the_threshold_is_the_median_of_all_distances(tiny_model, guess):
    engine = ScriptedEngine(tiny_model, lambda text, seed: f"{'x ' * seed}think." + END % 84)
    seen = []

    def distance(text, other):
        seen.append(float(len(other)))
        return seen[-1]

    found = resample_thoughts(engine, [guess], samples=4, least=1, seed=1, distance=distance)
    assert found[0].threshold == np.median(seen[:12])
    assert [one.distance for one in found[0].replacements] == seen[:4]
    assert found[0].differing == 2  # without numbers, the nearer half says the same
    assert found[1].differing == 4  # the original states numbers, these do not
    near = resample_thoughts(engine, [guess], samples=4, least=1, seed=1, threshold=1.0)
    assert near[0].differing == 0


def test_agrees_with_generations_one_by_one(tiny_model, tokenizer):
    """On a random model, whose continuations are graded by their length."""
    texts = ["Okay.\n\nSo 12.\n\nWait, 84.", "So\n\nHmm, 7."]
    problems = [Problem(str(i), f"What is 12 * {i}?", str(12 * i)) for i in range(2)]
    traces = [
        trace_of(tokenizer, text, seed=s, problem=p)
        for text, p, s in zip(texts, problems, (1, 3), strict=True)
    ]
    thoughts = [split_thoughts(tokenizer, trace) for trace in traces]
    found = resample_thoughts(
        tiny_model, traces, thoughts, samples=2, least=1, max_new_tokens=24, batch_size=5
    )
    flat = [(t, thought) for t, own in zip(traces, thoughts, strict=True) for thought in own]
    assert len(found) == len(flat) == 3
    for one, (trace, thought) in zip(found, flat, strict=True):
        assert (one.trace, one.thought) == (trace.id, thought)
        end = thought.stop
        if tokenizer.decode(trace.token_ids[end : end + 1]).endswith("\n\n"):
            end += 1
        for length, outcomes in (
            (thought.start, [replacement.outcome for replacement in one.replacements]),
            (end, one.kept),
        ):
            own = [s for s in (0, 1, 2) if s != trace.seed][:2]
            for seed, outcome in zip(own, outcomes, strict=True):
                request = Request(
                    trace.require_problem("to ask"),
                    Condition((), Sampling(1.0)),
                    seed=seed,
                    max_new_tokens=24,
                    prefix=trace.token_ids[:length],
                )
                (alone,) = generate(tiny_model, [request], progress=False)
                assert outcome_of(alone) == outcome


def test_an_engine_in_the_models_place_and_a_bridge(tiny_model, tiny_bridge, guess):
    settings: Any = {"samples": 2, "least": 1, "max_new_tokens": 32, "rounds": 1}
    ours = resample_thoughts(tiny_model, [guess], **settings)
    assert resample_thoughts(TransformerLensEngine(tiny_model), [guess], **settings) == ours
    theirs = resample_thoughts(tiny_bridge, [guess], **settings)
    assert [r.text for one in theirs for r in one.replacements] == [
        r.text for one in ours for r in one.replacements
    ]


def test_errors(tiny_model, tokenizer, guess):
    def attempt(thoughts=None, traces=(guess,), **settings):
        resample_thoughts(tiny_model, traces, thoughts, **settings)

    with pytest.raises(ValueError, match="continuations would all be the same"):
        attempt(sampling=Sampling(0.0))
    with pytest.raises(ValueError, match="samples=1: expected at least 2"):
        attempt(samples=1)
    with pytest.raises(ValueError, match="rounds=-1, least=4"):
        attempt(rounds=-1)
    with pytest.raises(
        ValueError, match="least=17: expected 0 rounds or more, and 1 to samples=16"
    ):
        attempt(least=17)
    with pytest.raises(ValueError, match="1 traces with 2 lists of 0 thoughts"):
        attempt([[], []])
    with pytest.raises(ValueError, match="0 traces with 0 lists"):
        attempt(traces=())
    without = trace_of(tokenizer, "Okay, so the final answer is \\boxed{79}.")
    with pytest.raises(ValueError, match="at least one thought"):
        attempt(traces=(without,))
    first = split_thoughts(tokenizer, guess)[0]
    with pytest.raises(ValueError, match="is no thought of trace trace 0 by the rule 'seal'"):
        attempt([[replace(first, start=first.start + 1)]])
    with pytest.raises(ValueError, match=f"ends at token {first.stop + 1}, and nothing can follow"):
        attempt([[first]], max_new_tokens=first.stop + 1)
    with pytest.raises(ValueError, match="another prompt than style='seal' gives"):
        attempt(style="seal")
    with pytest.raises(ValueError, match="neither a gold answer nor tests"):
        attempt(traces=(replace(guess, problem=replace(PROBLEM, answer="")),))
    with pytest.raises(ValueError, match="is text alone"):
        attempt(traces=(Trace.from_text(None, PROBLEM, "So\n\nHmm."),))
