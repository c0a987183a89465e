"""An ActivationCache cut to a trace's steps, and what is refused in place of misread."""

import re
from typing import Any

import pytest
import torch

import mi_lens
from mi_lens.information.per_trace.covariates import covariates
from mi_lens.information.per_trace.readouts import decode_steps
from tests.processes import result_of

NAMES = ["blocks.0.hook_resid_post", "blocks.2.hook_resid_post"]


@pytest.fixture(params=["tiny_model", "tiny_bridge"])
def model(request: pytest.FixtureRequest) -> Any:
    """One model of each class of TransformerLens."""
    return request.getfixturevalue(request.param)


def tolerance(model: Any) -> dict[str, Any]:
    """In its own pass, TransformerBridge takes the softmax in float32."""
    exact = 1e-9 if type(model).__name__ == "HookedTransformer" else 1e-4
    return {"atol": exact, "rtol": exact}


@pytest.fixture
def traces(model: Any) -> list[mi_lens.Trace]:
    """Two traces of unequal prompts."""
    problems = [
        mi_lens.Problem(id=f"p{i}", question=q, answer="42", solution="It is 42.")
        for i, q in enumerate(("6 * 7?", "What is 6 times 7, then?"))
    ]
    return mi_lens.generate(model, problems, max_new_tokens=8)


def cache_of(model: Any, *traces: mi_lens.Trace, without_last: bool = False) -> Any:
    ids = [[*t.prompt_ids, *t.token_ids][: -1 if without_last else None] for t in traces]
    wanted = (*NAMES, "blocks.0.attn.hook_pattern")
    with torch.no_grad():
        return model.run_with_cache(torch.tensor(ids), names_filter=lambda n: n in wanted)[1]


@pytest.mark.parametrize("without_last", [False, True])
def test_the_states_of_a_cache_are_those_of_capture(model, traces, without_last):
    for trace, captured in zip(traces, mi_lens.capture(model, traces, NAMES), strict=True):
        cache = cache_of(model, trace, without_last=without_last)
        states = mi_lens.states_of(cache, trace, NAMES)
        assert list(states) == NAMES
        assert "blocks.0.attn.hook_pattern" not in mi_lens.states_of(cache, trace)
        for name in NAMES:
            torch.testing.assert_close(states[name], captured[name], **tolerance(model))
        cache.remove_batch_dim()
        for name, state in mi_lens.states_of(cache, trace, NAMES).items():
            assert torch.equal(state, states[name])


def test_a_cache_gives_mi_words_and_controls(model, traces):
    problem = traces[0].problem
    answer = mi_lens.answer_state(model, problem, NAMES)
    cache = cache_of(model, traces[0])
    mi = mi_lens.mi_trajectories(cache, answer, trace=traces[0], sigma=1.0)
    captured = mi_lens.capture(model, traces[:1], NAMES)[0]
    expected = mi_lens.mi_trajectories(captured, answer, sigma=1.0)
    torch.testing.assert_close(mi, expected, **tolerance(model))
    states = mi_lens.states_of(cache, traces[0], "blocks.*.hook_resid_post")
    peaks = [mi_lens.find_peaks(mi[-1], mi_lens.TopK(2))]
    words = mi_lens.thinking_tokens(
        model, traces[:1], peaks, readout="logit_lens", states=[states[NAMES[-1]]]
    )
    assert words.peaks == 2
    permuted = mi_lens.permuted_coordinates(states[NAMES[0]], answer[NAMES[0]], permutations=3)
    assert permuted.shape == (3, len(traces[0]))


def test_lists_give_what_each_gives(model, traces):
    problems = [trace.require_problem("here") for trace in traces]
    answers = mi_lens.answer_state(model, problems, "blocks.*.hook_resid_post")
    alone = [mi_lens.answer_state(model, p, "blocks.*.hook_resid_post") for p in problems]
    states = mi_lens.capture(model, traces, lambda name: name.endswith("resid_post"))
    trajectories = mi_lens.mi_trajectories(states, answers, trace=traces)
    for place, trace in enumerate(traces):
        assert answers[place].keys() == alone[place].keys() == states[place].keys()
        assert all(torch.equal(answers[place][n], alone[place][n]) for n in answers[place])
        single = mi_lens.mi_trajectories(states[place], answers[place])
        assert torch.equal(trajectories[place], single)
        assert single.shape == (3, len(trace))


def refusals() -> list[str]:
    """The messages with which misread input is refused, where no type checker comes first."""
    d, prompt, steps = 4, 3, 6
    trace = mi_lens.Trace("t", "m", "p", (1,) * prompt, (2,) * steps, "text", "eos")
    rows = torch.randn(1, prompt + steps, d, generator=torch.Generator().manual_seed(0))
    states, name, answer = rows[0, 2:8], "blocks.0.hook_resid_post", rows[0, 0]
    cache: Any = {name: rows}
    calls = [
        lambda: mi_lens.states_of({name: rows.repeat(2, 1, 1)}, trace),
        lambda: mi_lens.states_of({name: rows[:, :-2]}, trace),
        lambda: mi_lens.states_of({"pattern": rows[None]}, trace),
        lambda: mi_lens.mi_trajectories(cache, {name: answer}),
        lambda: mi_lens.mi_trajectories({name: rows[0]}, {name: answer}, trace=trace),
        lambda: mi_lens.mi_trajectories({name: states}, cache),
        lambda: mi_lens.mi_trajectories([{name: states}], {name: answer}),  # type: ignore
        lambda: mi_lens.find_peaks(cache),
        lambda: mi_lens.mismatched_gold(rows, answer, states),
        lambda: mi_lens.mismatched_gold(states, cache, states),
        lambda: mi_lens.permuted_coordinates(rows, answer),
        lambda: mi_lens.massive_coordinates(rows, answer),
        lambda: mi_lens.without_massive(rows, answer),
        lambda: mi_lens.sigma_sweep(rows, answer, [1.0]),
        lambda: mi_lens.scale_sweep(rows, answer, [1.0]),
        lambda: covariates(rows, answer, {}),
        lambda: decode_steps(None, trace, "logit_lens", rows),  # type: ignore
    ]
    messages = []
    for call in calls:
        try:
            messages.append(f"not refused: {call()}")
        except Exception as error:
            messages.append(f"{type(error).__name__}: {error}")
    return messages


EXPECTED = [
    r"ValueError: .*2 rows.*by itself",
    r"a cache of 7 positions; trace t has 3 of its prompt and 6 steps",
    r"no activation of shape \(1, pos, d\)",
    r"\(1, 9, 4\).*states_of",
    r"\(9, 4\) for a trace of 6 steps",
    r"answer_state at .*\(1, 9, 4\); expected one answer's state",
    r"a list of as many answer states",
    r"type dict; expected a trajectory",
    r"\(1, 9, 4\); expected one trace's states",
    r"type dict; expected one answer's state",
    *[r"\(1, 9, 4\).*states_of"] * 6,
    r"\(1, 9, 4\).*states_of",
]


def test_what_would_be_misread_is_refused():
    messages = result_of(refusals)
    assert len(messages) == len(EXPECTED)
    for message, expected in zip(messages, EXPECTED, strict=True):
        assert message.startswith("ValueError"), message
        assert re.search(expected, message), message


def test_a_cache_without_its_trace_is_refused(model, traces):
    answer = mi_lens.answer_state(model, traces[0].require_problem("here"), NAMES)
    with pytest.raises(ValueError, match=r"give its trace, mi_trajectories\(cache, answer, trace"):
        mi_lens.mi_trajectories(cache_of(model, traces[0]), answer)


def test_patterns_and_filters_choose_hook_names(model, traces, tmp_path):
    for wanted in ("blocks.*.hook_resid_post", lambda name: name.endswith("hook_resid_post")):
        (states,) = mi_lens.capture(model, traces[:1], wanted)
        assert list(states) == [f"blocks.{i}.hook_resid_post" for i in range(3)]
    with pytest.raises(ValueError, match=r"takes none of \d+ hooks"):
        mi_lens.capture(model, traces, lambda name: False)
    paths = mi_lens.capture_into(model, traces, "blocks.*.hook_resid_post", tmp_path)
    folder = mi_lens.load_activations(tmp_path, [NAMES[0]])
    assert folder.keys() == {path.stem for path in paths} == {trace.id for trace in traces}
    for trace in traces:
        assert torch.equal(
            folder[trace.id][NAMES[0]],
            mi_lens.load_activations(tmp_path / f"{trace.id}.safetensors")[NAMES[0]],
        )
    with pytest.raises(ValueError, match=r"lacks .*near: blocks.0.hook_resid_post"):
        mi_lens.load_activations(tmp_path, ["blocks.0.hook_resid_pots"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no shards"):
        mi_lens.load_activations(tmp_path / "empty")


def test_a_trace_under_hooks_is_not_read_without_them(model, traces):
    def halve(states, hook):
        return states / 2

    hooks = [(NAMES[0], halve)]
    problem = traces[0].require_problem("here")
    (trace,) = mi_lens.generate(
        model, [problem], fwd_hooks=hooks, hooks_named="halve, v1", max_new_tokens=8
    )
    with pytest.raises(ValueError, match=r"under hooks, 'halve, v1', that are not on the model"):
        mi_lens.capture(model, [trace], NAMES)
    with model.hooks(fwd_hooks=hooks):
        (under,) = mi_lens.capture(model, [trace], NAMES)
    (plain,) = mi_lens.capture(model, [trace], NAMES, condition=None)
    assert not torch.allclose(under[NAMES[1]], plain[NAMES[1]])
