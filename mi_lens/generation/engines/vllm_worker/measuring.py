"""Finished traces read in vLLM's workers, and numbers of their states; no state leaves the worker.

A trace is read like a prompt, in vLLM's chunks, and what acted on it acts again where it did.
Of every trace that is being read, a worker's device keeps

    steps x d x hook names x bytes of the dtype

until its numbers are computed. Answer states lie on the worker's host, answers x d x hook names x
bytes of the dtype, until they are forgotten. Under tensor parallelism each worker keeps the same
states, since each unembeds with its own part of the vocabulary; the first one computes and answers.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mi_lens.common.float64 import float64_device
from mi_lens.generation.engines.vllm_worker.held import Held
from mi_lens.generation.engines.vllm_worker.watch import Watch
from mi_lens.generation.jobs import Job
from mi_lens.information.per_trace.hsic import hsic_mi
from mi_lens.information.per_trace.measurement import measure, measurement_to_row
from mi_lens.information.per_trace.peak_rules import parse_peak_rule
from mi_lens.information.per_trace.readouts import lens_probability
from mi_lens.interventions.protocol import Action
from mi_lens.interventions.replay import Replay
from mi_lens.interventions.row import Rewound, Row
from mi_lens.interventions.sampling import Sampling
from mi_lens.states.answer_state import AnswerTokens
from mi_lens.states.uncertainty import Unembed, explanations_by
from mi_lens.traces.trace import Trace


class Readings:
    """What this worker reads to measure: answers, whose states it keeps, and traces.

    Args:
        outline: The outline of the model.
        unembed: Gives the logits of states; all processes of a layer are asked at once.
        first: Whether this process computes the numbers that all have the states for.
    """

    def __init__(self, outline: Any, unembed: Unembed, first: bool):
        self.outline, self.unembed, self.first = outline, unembed, first
        self.answers: dict[str, dict[str, Float[Tensor, " d"]]] = {}

    def hold(
        self, ids: tuple[int, ...], given: Mapping[str, Any], actions: tuple[Action, ...]
    ) -> Held:
        """A text that is about to be read; all actions act on it as at a later reading."""
        watch = Watch(given["names"], given["first"], len(ids))
        row, prompt = Row(self.outline.tokenizer, ids, 0, 0), len(ids)
        if given["trace"] is not None:
            watch.trace = _trace(ids, given["trace"])
            rewound = Rewound.of(row.tokenizer, watch.trace)
            row, prompt = rewound.row, rewound.first
            row.events = list(watch.trace.events)
        job = Job(0, row, Sampling(), actions, (), len(ids) + 1)
        return Held(job, prompt, len(ids), watch=watch)

    def keep_answer(self, held: Held, name: str, mean: bool) -> None:
        """Keeps the state of an answer that was read, on the host."""
        states = _watch(held).take()
        state = AnswerTokens((), 1, mean).state
        self.answers[name] = {at: state(read).cpu() for at, read in states.items()}

    @torch.inference_mode()
    def numbers(self, held: Held, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
        """The numbers of a trace that was read; None if another process answers.

        Args:
            held: The trace, whose states are dropped.
            wanted: What to compute (`numbers_of_states`), and under "next_token" the hook name
                of the last block and the answer after whose text the next token is compared.
        """
        watch = _watch(held)
        states = watch.take()
        told: dict[str, Any] = {}
        if wanted.get("next_token"):
            name, after = wanted["next_token"]
            assert watch.trace is not None
            replay = Replay(self.outline, watch.trace, held.job.actions)
            answer = self.answers[after][name].to(states[name])
            explained = explanations_by(self.unembed, replay, states[name], answer)
            told["next_token"] = {what: values.tolist() for what, values in explained.items()}
        if token_ids := wanted.get("token_ids"):
            told["probability"] = {
                name: lens_probability(self.unembed, of_name, token_ids).tolist()
                for name, of_name in states.items()
            }
        return told | numbers_of_states(states, self.answers, wanted) if self.first else None


def numbers_of_states(
    states: dict[str, Float[Tensor, "step d"]],
    answers: Mapping[str, Mapping[str, Float[Tensor, " d"]]],
    wanted: Mapping[str, Any],
) -> dict[str, Any]:
    """Numbers of a trace's states and of answers, as JSON.

    Args:
        states: The states by hook name; they are dropped one by one.
        answers: The answer states, by the answer's name and the hook name.
        wanted: Under "measure", the hook names and the answers of the measurements, with their
            sigma, peak rule and seed; under "mi", answers and the settings of `hsic_mi`.

    Returns:
        Under "measured", rows of measurements by hook name, without what the model expected next;
        under "mi", a list of a value per answer for every step, by hook name.
    """

    def at(name: str, chosen: Sequence[str]) -> Float[Tensor, "answer d"]:
        found = [answers[answer][name] for answer in chosen]
        return torch.stack(found).to(device) if found else here.new_zeros(0, here.shape[1])

    told: dict[str, Any] = {}
    for name in list(states):
        here = states.pop(name)
        device = float64_device(here.device)
        here = here.to(device)
        if (asked := wanted.get("measure")) and name in asked["names"]:
            endings = asked["endings"]
            measurement = measure(
                here,
                at(name, [asked["answer"]])[0],
                at(name, asked["others"]),
                {},
                endings=dict(zip(endings, at(name, list(endings.values())), strict=True)),
                sigma=asked["sigma"],
                rule=parse_peak_rule(asked["rule"]),
                seed=asked["seed"],
            )
            told.setdefault("measured", {})[name] = measurement_to_row(measurement)
        if asked := wanted.get("mi"):
            values = hsic_mi(here, at(name, asked["answers"]), **asked["settings"])
            told.setdefault("mi", {})[name] = values.tolist()
    return told


class MeasuringExtension:
    """Methods of a worker that reads texts to measure them; see `WorkerExtension`."""

    mi_lens_readings: Readings
    mi_lens_loop: Any

    def mi_lens_keep_answers(self, answers: str) -> str:
        """Keeps the states of answers that were read.

        Args:
            answers: For every request that read one, the answer's name and whether its state is a
                mean.

        Returns:
            A list: for every request null, or why it failed.
        """
        return self._mi_lens_told(answers, self.mi_lens_readings.keep_answer)

    def mi_lens_forget_answers(self, names: str) -> str:
        """Forgets answers by their names; gives how many are left."""
        kept = self.mi_lens_readings.answers
        for name in json.loads(names):
            kept.pop(name, None)
        return json.dumps(len(kept))

    def mi_lens_numbers(self, traces: str) -> str:
        """Computes numbers of traces that were read, whose states are then dropped.

        Args:
            traces: For every request that read one, what is wanted (`Readings.numbers`).

        Returns:
            A list: for every request its numbers, or a text that says why it failed; null where
            another process answers.
        """
        return self._mi_lens_told(traces, self.mi_lens_readings.numbers)

    def _mi_lens_told(self, asked: str, tell: Any) -> str:
        told = []
        for request, what in json.loads(asked).items():
            try:
                told.append(tell(self.mi_lens_loop.held.pop(request), *what))
            except ValueError as error:
                told.append(str(error))
        return json.dumps(told)


def _trace(ids: Sequence[int], given: Mapping[str, Any]) -> Trace:
    """What a reading must know of a trace.

    Args:
        ids: The tokens of its prompt and all of its own but the last.
        given: Its id, seed and events; how many tokens the prompt and the prefix have; the last
            token.
    """
    count = given["prompt"]
    return Trace(
        id=given["id"],
        model="",
        prompt="",
        prompt_ids=tuple(ids[:count]),
        token_ids=(*ids[count:], given["last"]),
        text="",
        stop_reason="imported",
        seed=given["seed"],
        condition={"prefix": given["prefix"]},
        events=tuple(given["events"]),
    )


def _watch(held: Held) -> Watch:
    assert held.watch is not None
    return held.watch
