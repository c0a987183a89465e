import pytest

from mi_lens.generation.generate import generate
from mi_lens.generation.request import Request
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.extend import Continue
from mi_lens.interventions.suppress import LogitPenalty


@pytest.fixture
def marks(tiny_model):
    encode = tiny_model.tokenizer.encode
    return encode("</think>")[0], tiny_model.tokenizer.eos_token_id


@pytest.mark.parametrize("which", [0, 1])
def test_the_end_is_put_off(tiny_model, marks, which):
    end = marks[which]
    words = tiny_model.tokenizer.encode("\n\nSo"), tiny_model.tokenizer.encode("\n\nthe")
    condition = Condition((LogitPenalty([end], 1000.0), Continue(["So", "the"], times=3)))
    (trace,) = generate(tiny_model, ["Hi"], condition, max_new_tokens=200, progress=False)
    expected = [*words[0], *words[1], *words[0], end]
    assert list(trace.token_ids[: len(expected)]) == expected
    events = [event for event in trace.events if event["what"] == "continue"]
    assert [event["wanted"] for event in events] == [end] * 3


def test_budget_is_kept_for_the_answer(tiny_model, marks):
    condition = Condition((LogitPenalty([marks[0]], 1000.0), Continue(["So"], reserve=10)))
    (trace,) = generate(tiny_model, ["Hi"], condition, max_new_tokens=20, progress=False)
    text = tiny_model.tokenizer.encode("\n\nSo")
    closing = trace.token_ids.index(marks[0])
    assert len(trace.token_ids[:closing]) % len(text) == 0
    assert 10 - len(text) < closing <= 10
    assert trace.token_ids[:closing] == tuple(text) * (closing // len(text))


def test_a_closed_think_block_is_not_opened_again(tiny_model, marks):
    think = marks[0]
    request = Request(
        "Hi",
        Condition((LogitPenalty([think], 1000.0), Continue(["So"]))),
        max_new_tokens=90,
        prefix=(think,),
    )
    (trace,) = generate(tiny_model, [request], progress=False)
    assert set(trace.token_ids) == {think}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"words": []}, "no words"),
        ({"words": [3]}, "not token ids"),
        ({"times": 0}, "times=0"),
        ({"reserve": 0}, "reserve=0"),
    ],
)
def test_impossible_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Continue(**({"words": ["So"]} | settings))
