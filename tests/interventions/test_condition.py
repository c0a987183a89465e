import json

import pytest
import torch

from mi_lens.interventions.condition import KINDS, Condition, from_json, parse_intervention, to_json
from mi_lens.interventions.extend import Continue
from mi_lens.interventions.forbid import ForbidAt
from mi_lens.interventions.recycle import Recycle
from mi_lens.interventions.sampling import Sampling
from mi_lens.interventions.steer import Steer
from mi_lens.interventions.suppress import LogitPenalty, Suppress
from mi_lens.interventions.temperature import RaiseTemperature

ALL = (
    Suppress(["Wait", 7]),
    LogitPenalty(["wait"], -3.0, containing=True),
    RaiseTemperature(["Hmm"], 1.3),
    Recycle(2, ["Wait"], 2, "consumed", "keep", 0.5),
    Steer(
        torch.randn(8, generator=torch.Generator().manual_seed(0)),
        "blocks.1.hook_resid_post",
        0.5,
        at=["Wait"],
        variant="random",
        seed=2,
    ),
    Continue(["Wait"], 3),
    ForbidAt(4, 7),
)


@pytest.mark.parametrize("intervention", ALL, ids=lambda intervention: type(intervention).__name__)
def test_json_and_back(intervention):
    text = json.dumps(to_json(intervention), allow_nan=False)
    again = from_json(json.loads(text))
    assert again == intervention
    assert hash(again) == hash(intervention)
    assert to_json(again) == to_json(intervention)


def test_every_kind_is_among_them():
    assert sorted(KINDS) == sorted(type(intervention).__name__ for intervention in ALL)


def test_a_condition_goes_to_json_and_back():
    condition = Condition(ALL, Sampling(0.6, 0.95), "all")
    again = Condition.from_json(json.loads(json.dumps(condition.to_json())))
    assert again == condition
    assert again.name == "all"
    assert Condition.from_json({}) == Condition()


def test_names():
    assert Condition().name == "baseline"
    assert "Suppress(words=('Wait',))" in Condition((Suppress(["Wait"]),)).name
    assert "vector" not in Condition((ALL[4],)).name
    assert Condition(name="a") == Condition(name="b")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Suppress(['Wait', 'Hmm'])", Suppress(["Wait", "Hmm"])),
        (" Recycle(2, ('Wait',), trigger='consumed') ", Recycle(2, ["Wait"], trigger="consumed")),
        ("LogitPenalty(words=['wait'], penalty=-1.5)", LogitPenalty(["wait"], -1.5)),
        ("ForbidAt(4, token=7)", ForbidAt(4, 7)),
    ],
)
def test_as_written_in_python(text, expected):
    assert parse_intervention(text) == expected
    assert parse_intervention(repr(expected)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Supress(['Wait'])", r"'Supress': expected one of \['Continue'"),
        ("Suppress", "expected a call with literal arguments"),
        ("Suppress(['Wait'", "expected a call with literal arguments"),
        ("Suppress(open('x'))", "expected a call with literal arguments"),
        ("__import__('os').system('x')", "expected a call with literal arguments"),
        ("Suppress(['Wait'], 3)", "at most 1 arguments"),
        ("Suppress(word=['Wait'])", r"unknown \['word'\]"),
        ("Suppress()", "missing .*argument: 'words'"),
    ],
)
def test_text_that_is_no_intervention(text, message):
    with pytest.raises(ValueError, match=message):
        parse_intervention(text)


def test_unknown_keys_are_refused():
    with pytest.raises(ValueError, match=r"unknown \['intervention'\]"):
        Condition.from_json({"intervention": []})
    with pytest.raises(ValueError, match=r"Sampling: unknown \['temprature'\]"):
        Condition.from_json({"sampling": {"temprature": 1}})
    with pytest.raises(ValueError, match="intervention None"):
        from_json({"words": ["Wait"]})
