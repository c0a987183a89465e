"""Real models that write the think block of every kind."""

import pytest
import torch

from mi_lens.generation.generate import generate
from mi_lens.generation.plan import Plan
from mi_lens.generation.request import Request
from mi_lens.information.across_problems.thought_gains import answer_bits, thought_gains
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.extend import Continue
from mi_lens.interventions.steer import Steer
from mi_lens.interventions.suppress import LogitPenalty
from mi_lens.models.loading import load
from mi_lens.problems.grading.grader import grade
from mi_lens.problems.problem import Problem
from mi_lens.problems.think_kinds import THINK_KINDS, think_kind
from mi_lens.states.capture import capture
from mi_lens.traces.think_block import boundary_steps, pieces
from mi_lens.traces.thoughts import split_thoughts
from tests.conftest import save_checkpoint
from tests.think_blocks import FAMILIES, PLAIN, tokenizer_of

PROBLEM = Problem("p", "What is 3 * 4?", "12")
HOOK = "blocks.1.hook_resid_post"
STEER = Steer(torch.linspace(-1, 2, 32), HOOK, allow_overlap=True)
BACKEND = "bridge"


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """`folder_of("gpt-oss")` is a tiny checkpoint with that family's tokenizer."""
    folders = {}

    def folder(name):
        if name not in folders:
            tokenizer = tokenizer_of((FAMILIES | {"plain": PLAIN})[name])
            end = tokenizer.eos_token_id
            path = tmp_path_factory.mktemp(name)
            folders[name] = save_checkpoint(path, "qwen2", tokenizer, eos_token_id=end)
        return folders[name]

    return folder


@pytest.fixture(scope="module")
def model_of(folder_of):
    models = {}

    def model(name, think="auto"):
        if (name, think) not in models:
            models[name, think] = load(
                folder_of(name), backend=BACKEND, dtype="float64", device="cpu", think=think
            )
        return models[name, think]

    return model


def written(model, text, *interventions, more=2, **settings):
    """A trace that begins with a text, whose states the model did compute."""
    prefix = tuple(model.tokenizer.encode(text, add_special_tokens=False))
    request = Request(
        PROBLEM,
        Condition(interventions),
        max_new_tokens=len(prefix) + more,
        prefix=prefix,
        **settings,
    )
    (trace,) = generate(model, [request], progress=False)
    return trace


def steered(trace, most):
    """The steps at which a trace was steered, up to one."""
    ranges = [range(event["step"], event["last"] + 1) for event in trace.events]
    return [step for steps in ranges for step in steps if step <= most]


def boundaries_between(model, text, opening, closing):
    """The steps that read a boundary of a text between two marks; 0 is the text's start."""
    ids = model.tokenizer.encode(text, add_special_tokens=False)
    first = text.find(opening) + len(opening) if opening in text else 0
    last = text.find(closing) if closing in text else len(text)
    strings = pieces(model.tokenizer, ids)
    ends = [len("".join(strings[: step + 1])) for step in range(len(ids))]
    return [b + 1 for b in boundary_steps(model.tokenizer, ids) if first < ends[b] <= last]


@pytest.mark.parametrize("name", FAMILIES)
def test_steering_acts_inside_the_block_only(model_of, name):
    model, family = model_of(name), FAMILIES[name]
    trace = written(model, family.text, STEER)
    assert trace.text.startswith(family.text)
    kind = think_kind(model.tokenizer)
    wanted = boundaries_between(model, family.text, kind.opening, kind.closings[-1])
    outside = boundaries_between(model, family.text, kind.closings[-1], "no such mark")
    assert len(wanted) >= 2
    assert outside
    assert steered(trace, most=len(trace) - 2) == wanted
    thoughts = split_thoughts(model.tokenizer, trace)
    assert {t.boundary_step for t in thoughts if t.start < len(trace) - 2} <= set(wanted)
    # Read again, it is steered where it was steered.
    (again,) = capture(model, [trace], [HOOK])
    (plain,) = capture(model, [trace], [HOOK], condition=None)
    changed = (again[HOOK] - plain[HOOK]).norm(dim=-1) > 1e-9
    assert changed.nonzero()[0, 0] == wanted[0]
    everywhere = written(model, family.text, Steer(STEER.vector, HOOK, inside_think=False))
    assert steered(everywhere, most=len(trace) - 2) == sorted({*wanted, *outside})


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_graded_is_the_reply(model_of, name):
    text = FAMILIES[name].text.replace("So 12.", "So \\boxed{13}.")
    trace = written(model_of(name), text, more=1)
    assert grade(trace.text, PROBLEM).correct


def test_a_bare_question_and_a_model_without_a_block_count_from_the_start(model_of):
    model = model_of("qwen3")
    text = "So\n\nHmm\n\n12."
    every = boundaries_between(model, text, "none", "none")
    assert len(every) == 2
    assert steered(written(model, text, STEER, style="raw"), most=6) == every
    assert steered(written(model, text, STEER, style="chat"), most=6) == []
    assert steered(written(model, text, STEER, style="chat-no-thinking"), most=6) == []
    assert steered(written(model_of("plain"), text, STEER), most=6) == every
    none = model_of("qwen3", "none")
    assert steered(written(none, text, STEER, style="chat-no-thinking"), most=6) == every
    assert steered(written(none, f"{text}</think>\n\n", STEER), most=9)[:2] == every


def test_thinking_is_switched_by_the_style(model_of):
    model = model_of("qwen3")
    traces = {
        style: generate(model, [PROBLEM], style=style, max_new_tokens=2, progress=False)[0]
        for style in ("chat", "chat-thinking", "chat-no-thinking")
    }
    off = traces["chat-no-thinking"]
    assert off.prompt == traces["chat"].prompt + "<think>\n\n</think>\n\n"
    assert traces["chat-thinking"].prompt == traces["chat"].prompt
    assert {style: trace.condition.get("style") for style, trace in traces.items()} == {
        style: style for style in traces
    }
    assert len({trace.id for trace in traces.values()}) == 2  # one prompt, one trace
    with pytest.raises(ValueError, match=r"'chat-thinking'.*writes the same prompt"):
        generate(model_of("r1"), [PROBLEM], style="chat-thinking", progress=False)


def test_the_kind_is_part_of_what_names_a_trace(folder_of, model_of):
    plans = {think: Plan(model_of("qwen3", think)) for think in ("auto", "think", "none")}
    ids = {think: plan.trace_id(Request(PROBLEM)) for think, plan in plans.items()}
    assert ids["auto"] == ids["think"] != ids["none"]
    assert plans["auto"].fingerprint == plans["think"].fingerprint != plans["none"].fingerprint
    with pytest.raises(ValueError, match=r"cannot write '<\|channel\|>'"):
        load(folder_of("qwen3"), think="gpt-oss")
    with pytest.raises(ValueError, match="think='no': expected 'auto' or one of"):
        load("no such folder", think="no")


@pytest.mark.parametrize("name", ["r1", "qwen3", "gpt-oss", "magistral"])
def test_the_token_that_closes_the_block_is_put_off(model_of, name):
    model, family = model_of(name), FAMILIES[name]
    (closing,) = model.tokenizer.encode(family.turns.strip().split("<|start")[0])[:1]
    penalty, more = LogitPenalty([closing], 1000.0), Continue(["Wait"], times=2, reserve=2)
    trace = written(model, f"{family.begins}Okay.", penalty, more, more=16)
    (*word,) = model.tokenizer.encode("\n\nWait")
    start = len(trace) - 16
    assert list(trace.token_ids[start : start + 2 * len(word) + 1]) == [*word, *word, closing]
    closed = written(model, family.text, penalty, more, more=16)  # not while it is closed
    assert not [event for event in closed.events if event["what"] == "continue"]


@pytest.mark.parametrize("name", ["olmo", "sky"])
def test_marks_of_several_tokens_cannot_be_put_off(model_of, name):
    closing = THINK_KINDS[FAMILIES[name].kind].closings[-1]
    with pytest.raises(ValueError, match=f"writes {closing!r} as several".replace("|", r"\|")):
        Continue(["Wait"]).bind(model_of(name))
    Continue(["Wait"]).bind(model_of(name, "none"))
    Continue(["Wait"]).bind(model_of("plain"))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_model_is_asked_for_its_answer_as_its_kind_gives_it(model_of, name):
    model = model_of(name)
    trace = written(model, FAMILIES[name].text)
    (gains,) = thought_gains(model, [trace])
    asking = f"{think_kind(model.tokenizer).leaving}The final answer is \\boxed{{"
    assert gains.bits == answer_bits(model, trace, gains.cuts, asking=asking)
