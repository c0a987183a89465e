"""Numbers that a worker computes of the states it keeps; TransformerLens reads in vLLM's place."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mi_lens.generation.engines.trace_numbers import Compared
from mi_lens.generation.engines.vllm_worker.held import Reading
from mi_lens.generation.engines.vllm_worker.layers import Stream
from mi_lens.generation.engines.vllm_worker.measuring import MeasuringExtension, Readings
from mi_lens.generation.engines.vllm_worker.parts import Piece
from mi_lens.generation.engines.vllm_worker.watch import Watch
from mi_lens.generation.generate import generate
from mi_lens.generation.request import Request
from mi_lens.information.per_trace.hsic import hsic_mi
from mi_lens.information.per_trace.measurement import measure, measurement_to_row
from mi_lens.information.per_trace.readouts import answer_probability
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.recycle import Recycle
from mi_lens.interventions.replay import replay_of
from mi_lens.interventions.suppress import LogitPenalty
from mi_lens.problems.problem import Problem
from mi_lens.states.answer_state import answer_state, answer_tokens
from mi_lens.states.capture import capture
from mi_lens.states.segments import states_at
from mi_lens.states.uncertainty import next_token_explanations
from tests.generation.engines.pretend_reader import PretendReader

NAMES = ["blocks.0.hook_resid_post", "blocks.2.hook_resid_post", "blocks.1.hook_resid_pre"]
PROBLEMS = [
    Problem(id=f"p{k}", question=f"What is {k} + 12?", answer=str(k + 12), solution=f"{k + 12}.")
    for k in range(4)
]
PARTS = (Recycle(1, tuple(range(0, 384, 3)), trigger="consumed"), LogitPenalty((7, 8, 9), -1.0))


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model


@pytest.fixture(scope="module")
def traces(model):
    requests = [Request(PROBLEMS[0], max_new_tokens=20), Request(PROBLEMS[1], max_new_tokens=9)]
    recycled = Request(PROBLEMS[2], Condition(PARTS), max_new_tokens=24, prefix=(5, 6))
    found = generate(model, [*requests, recycled], progress=False)
    assert found[2].events
    return found


@pytest.fixture
def reader(model):
    return PretendReader(model)


def tokens_of(model, **settings):
    return [answer_tokens(model.tokenizer, problem, **settings) for problem in PROBLEMS]


def test_measurements_are_those_of_captured_states(model, reader, traces):
    answers, last = tokens_of(model, site="answer_mean"), tokens_of(model, site="answer_last")
    compared = [
        Compared(
            answers[k],
            tuple(answers[:k] + answers[k + 1 :]),
            {"as_written": answers[k], "bare": last[k]},
            after=last[k],
        )
        for k in range(3)
    ]
    found = list(reader.measure(traces, compared, NAMES[:1], sigma=3.0, seed=4))
    for k, (trace, measurements) in enumerate(zip(traces, found, strict=True)):
        (states,) = capture(model, [trace], NAMES)
        means = answer_state(model, PROBLEMS, NAMES, site="answer_mean")
        ends = answer_state(model, PROBLEMS[k], NAMES, site="answer_last")
        explained = next_token_explanations(model, trace, states[NAMES[1]], ends[NAMES[1]])
        name = NAMES[0]
        expected = measure(
            states[name],
            means[k][name],
            torch.stack([each[name] for j, each in enumerate(means) if j != k]),
            explained,
            endings={"as_written": means[k][name], "bare": ends[name]},
            sigma=3.0,
            seed=4,
        )
        row = json.dumps(measurement_to_row(expected))
        assert list(measurements) == [name]
        assert json.dumps(measurement_to_row(measurements[name])) == row
    assert reader.worker.mi_lens_readings.answers == {}


@pytest.mark.parametrize("held", [1, 2**30])
def test_trajectories_and_the_logit_lens(model, reader, traces, monkeypatch, held):
    """However many hook names are read at once."""
    monkeypatch.setattr("mi_lens.states.by_hook.HELD", held)
    answers = [
        [a, b] for a, b in zip(tokens_of(model), tokens_of(model, template=True), strict=True)
    ]
    found = reader.trajectories(traces, NAMES, answers[:3], sigma=2.0, estimator="hsic")
    states = capture(model, traces, NAMES)
    for k, (trace, numbers) in enumerate(zip(traces, found, strict=True)):
        read = [answer_state(model, PROBLEMS[k], NAMES, template=t) for t in (False, True)]
        lens = answer_probability(model, trace, states[k])
        for name in NAMES:
            both = torch.stack([each[name] for each in read])
            mi = hsic_mi(states[k][name], both, sigma=2.0, estimator="hsic")
            np.testing.assert_allclose(numbers.mi[name], mi.numpy(), rtol=1e-9)
            np.testing.assert_allclose(numbers.probability[name], lens[name], rtol=1e-9)
    chosen = reader.trajectories(traces[:1], NAMES[0], token_ids=[[3, 8]])[0]
    both = answer_probability(model, traces[0], states[0], token_ids=[3, 8])
    assert chosen.mi == {}
    np.testing.assert_allclose(chosen.probability[NAMES[0]], both[NAMES[0]], rtol=1e-9)


def test_what_is_told_has_the_size_of_the_numbers(model, reader, traces):
    reader.trajectories(traces[:1], NAMES, [tokens_of(model)[:1]])
    numbers = 2 * len(traces[0]) * len(NAMES)
    assert sum(reader.told) < 24 * numbers + 1500


def test_a_trace_is_held_as_it_was_read(model, traces):
    """Blocks run again at the positions of the trace's events, however vLLM cuts it."""
    trace, readings = traces[2], Readings(model, torch.clone, True)
    replay = replay_of(model, trace)
    given = {
        "names": NAMES,
        "first": len(trace.prompt_ids) - 1,
        "trace": {
            "events": list(trace.events),
            "id": trace.id,
            "last": trace.token_ids[-1],
            "prefix": 2,
            "prompt": len(trace.prompt_ids),
            "seed": trace.seed,
        },
    }
    ids = (*trace.prompt_ids, *trace.token_ids[:-1])
    held = readings.hold(ids, given, tuple(replay.actions))
    assert held.prompt == len(trace.prompt_ids) + 2
    assert held.read == len(ids)
    found: dict[int, Any] = {}
    for first in range(0, len(ids), 5):
        count = min(5, len(ids) - first)
        reading = Reading(held, Piece(0, 0, first, count), count, False, False)
        found |= reading.recycled[1]
    assert {(1, at): how for at, how in found.items()} == replay.recycled
    assert found


def stream(first, count):
    """States that say where they stand; half of them is in the residual."""
    whole = torch.arange(first, first + count)[:, None].repeat(1, 2).float()
    return Stream(whole - 3, torch.full_like(whole, 3))


def test_a_watch_keeps_wanted_positions_of_wanted_names():
    watch = Watch(["a"], 3, 9)
    for first, count in [(0, 2), (2, 3), (5, 1), (4, 2), (6, 5)]:  # Some are read again.
        for name in "ab":
            watch.see(name, Piece(0, 0, first, count), stream(first, count))
    (states,) = watch.take().values()
    assert states.tolist() == [[at, at] for at in range(3, 9)]
    assert watch.states == {}


def test_a_position_that_was_not_read_is_told():
    watch = Watch(["a"], 3, 9)
    watch.see("a", Piece(0, 0, 0, 5), stream(0, 5))
    watch.see("a", Piece(0, 0, 6, 3), stream(6, 3))
    with pytest.raises(ValueError, match="a: position 5 was not read; expected all from 3 to 8"):
        watch.take()


def test_why_a_text_failed_is_told(model, reader, traces, monkeypatch):
    def spoiled(model, sequences, names, positions, replay):
        (states,) = states_at(model, sequences, names, positions, replay)
        if len(sequences[0]) == spoil:
            states[NAMES[1]][-1, 0] = float("nan")
        return [states]

    monkeypatch.setattr("tests.generation.engines.pretend_reader.states_at", spoiled)
    (answer,) = tokens_of(model)[:1]
    spoil = len(answer.ids)
    last = rf"{NAMES[1]}: the state at position {spoil - 1} holds nan"
    with pytest.raises(ValueError, match=f"an answer state: {last}"):
        reader.trajectories(traces[:1], NAMES, [[answer]])
    spoil = len(traces[0].prompt_ids) + len(traces[0]) - 1
    last = rf"{NAMES[1]}: the state at position {spoil - 1} holds nan"
    with pytest.raises(ValueError, match=f"trace {traces[0].id}: {last}"):
        reader.trajectories(traces[:1], NAMES, [[answer]])
    assert reader.worker.mi_lens_readings.answers == {}


def test_an_answer_of_another_process_is_null(model, traces):
    worker = MeasuringExtension()
    readings = worker.mi_lens_readings = Readings(model, torch.clone, False)
    held = readings.hold((4, 5, 6), {"names": ["a"], "first": 1, "trace": None}, ())
    assert held.watch is not None
    held.watch.see("a", Piece(0, 0, 0, 3), stream(0, 3))
    worker.mi_lens_loop = SimpleNamespace(held={"r": held})
    assert worker.mi_lens_numbers('{"r": [{}]}') == "[null]"
    assert worker.mi_lens_loop.held == {}
