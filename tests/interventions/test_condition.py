import json
import sys
from dataclasses import asdict, dataclass

import pytest
import torch

from mi_lens.common.calls import as_expression
from mi_lens.common.records import write_record
from mi_lens.evaluation.evaluate import Evaluation
from mi_lens.generation.generate import generate
from mi_lens.interventions.condition import (
    Condition,
    from_json,
    parse_condition,
    parse_intervention,
    recorded_condition,
    to_json,
)
from mi_lens.interventions.early_exit import EarlyExit
from mi_lens.interventions.extend import Continue
from mi_lens.interventions.forbid import ForbidAt
from mi_lens.interventions.gate import Gate
from mi_lens.interventions.kinds import KINDS, register_intervention
from mi_lens.interventions.probe import StateProbe
from mi_lens.interventions.probe_exit import ProbeExit
from mi_lens.interventions.protocol import Action, Intervention
from mi_lens.interventions.recycle import Recycle
from mi_lens.interventions.sampling import Sampling
from mi_lens.interventions.schedule import Schedule
from mi_lens.interventions.steer import Steer
from mi_lens.interventions.suppress import LogitPenalty, Suppress
from mi_lens.interventions.temperature import RaiseTemperature
from mi_lens.runs.config import EvaluateConfig
from mi_lens.runs.evaluate import conditions_of
from mi_lens.runs.status import status
from mi_lens.runs.sweep import read_spec
from mi_lens.runs.sweep_spec import Spec

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
    Gate(LogitPenalty(["Wait"], -2.0), entropy=1.5, steps=(2, None), times=4),
    Schedule(90, ["Wait", "Hmm"], 0.5, "</think>"),
    EarlyExit(0.9, ["Wait", 7], "So it is ", 5, None),
    ProbeExit(
        StateProbe(
            *("blocks.1.hook_resid_post", [0.5, -2.0], 1.0, "m", "right trace"),
            *(0.7, 0.6, 0.8, 5, 9, (0.0, 1.0), {"key": "id"}),
        ),
        0.7,
    ),
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
    assert "Suppress(words=('Wait',), " in Condition((Suppress(["Wait"]),)).name
    assert "vector" not in Condition((ALL[4],)).name
    assert Condition(name="a") == Condition(name="b")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Suppress(['Wait', 'Hmm'])", Suppress(["Wait", "Hmm"])),
        (" Recycle(2, ('Wait',), trigger='consumed') ", Recycle(2, ["Wait"], trigger="consumed")),
        ("Recycle((1, 3), ['Wait'], damping=0.5)", Recycle((1, 3), ["Wait"], damping=0.5)),
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
        ("Suppress(['Wait'], True, [], 3)", "at most 3 arguments"),
        ("Suppress(word=['Wait'])", r"unknown \['word'\]"),
        ("Suppress()", "missing .*argument: 'words'"),
    ],
)
def test_text_that_is_no_intervention(text, message):
    with pytest.raises(ValueError, match=message):
        parse_intervention(text)


def test_an_impossible_setting_is_named_with_its_call():
    with pytest.raises(ValueError, match=r"intervention 'Suppress\(\[\]\)': no words given"):
        parse_intervention("Suppress([])")
    with pytest.raises(ValueError, match="condition 'sum': intervention '1': expected a call"):
        parse_condition("sum=1 + 1")
    vector = str([1.0] * 999)
    with pytest.raises(ValueError, match=r"1\.0, 1\.0, .*\.\.\.': hook_name is None") as error:
        parse_intervention(f"Steer({vector})")
    assert len(str(error.value)) < 400


def test_unknown_keys_are_refused():
    with pytest.raises(ValueError, match=r"unknown \['intervention'\]"):
        Condition.from_json({"intervention": []})
    with pytest.raises(ValueError, match=r"Sampling: unknown \['temprature'\]"):
        Condition.from_json({"sampling": {"temprature": 1}})
    with pytest.raises(ValueError, match="intervention None"):
        from_json({"words": ["Wait"]})


MODULE = """
from dataclasses import asdict, dataclass
from pathlib import Path

from mi_lens import Action, Intervention

Path("imported.txt").touch()


@dataclass(frozen=True)
class {name}(Intervention):
    layer: int
    factor: float = 0.5

    def bind(self, model):
        return _Scale(f"blocks.{{self.layer}}.hook_resid_post", self.factor)

    def to_json(self):
        return asdict(self)


class _Scale(Action):
    def __init__(self, hook_name, factor):
        self.hook_names, self.factor = (hook_name,), factor

    def edit(self, hook_name, states, rows):
        return states * self.factor
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch, request):
    """Stands in a folder with a module that holds one intervention; their names."""
    name = f"own_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(MODULE.format(name=name.title().replace("_", "")))
    monkeypatch.chdir(tmp_path)
    yield name, name.title().replace("_", "")
    sys.modules.pop(name, None)


def test_a_class_in_a_module_is_imported_only_for_what_the_user_types(own_module, tmp_path):
    module, name = own_module
    text = f"{module}:{name}(layer=1, factor=0.25)"
    for read in (parse_intervention, parse_condition):
        with pytest.raises(ValueError, match=f"module '{module}': the module is not imported"):
            read(text)
    with pytest.raises(ValueError, match="is not imported"):
        Condition.from_json({"interventions": [{"kind": f"{module}:{name}", "layer": 1}]})
    assert module not in sys.modules
    assert not (tmp_path / "imported.txt").exists()

    spec = Spec.of({"conditions": ["baseline", f"small{{l}}={text}"], "grid": {"l": [1]}})
    assert (tmp_path / "imported.txt").exists()
    assert str(tmp_path) not in sys.path
    (own,) = spec.expand()[1].interventions
    assert repr(own) == f"{name}(layer=1, factor=0.25)"
    assert own == parse_intervention(text)
    assert own == parse_condition(f"a=Suppress(['x:y(']) + {text}").interventions[1]
    settings = EvaluateConfig(out=tmp_path, intervene=(text,), conditions=(f"twice={text}",))
    assert conditions_of(settings)[0].interventions == (own, own)
    condition = Condition((own,), name="own")
    assert Condition.from_json(json.loads(json.dumps(condition.to_json()))) == condition
    typed = {"interventions": [{"kind": f"{module}:{name}", "layer": 1, "factor": 0.25}]}
    assert Condition.from_json(typed, import_modules=True) == condition


def test_files_of_results_import_nothing(tiny_model, own_module, tmp_path):
    module, name = own_module
    texts = ["baseline", f"own={module}:{name}(layer=1)", f"{module}:{name}(layer=1, factor=2.0)"]
    write_record(tmp_path / "sweep.json", {"spec": {"conditions": texts}, "versions": {}})
    names = ["baseline", "own", f"{name}(layer=1, factor=2.0)"]
    assert [condition.name for condition in read_spec(tmp_path).expand()] == names
    folder = tmp_path / "run"
    config = {"conditions": texts, "seeds": [0], "max_new_tokens": 4, "limit": 3}
    write_record(
        folder / "run.json", {"command": "evaluate", "config": config, "problems": {"count": 3}}
    )
    (folder / "results.jsonl").touch()
    assert Evaluation.load(folder).results == ()
    assert "0 of 9 traces" in str(status(folder))
    assert module not in sys.modules
    assert not (tmp_path / "imported.txt").exists()
    with pytest.raises(ValueError, match="its class is not loaded"):
        recorded_condition(texts[1]).interventions[0].bind(tiny_model)


def test_an_intervention_of_ones_own_equals_a_hook(tiny_model, own_module):
    module, name = own_module
    own = parse_intervention(f"{module}:{name}(layer=1, factor=0.25)", import_modules=True)
    (trace,) = generate(tiny_model, ["Hi"], own, max_new_tokens=6, progress=False)
    scale = [("blocks.1.hook_resid_post", lambda states, hook: states * 0.25)]
    ids = torch.tensor([[*trace.prompt_ids, *trace.token_ids]])
    with torch.no_grad(), tiny_model.hooks(fwd_hooks=scale):
        logits = tiny_model(ids)[0, len(trace.prompt_ids) - 1 : -1]
    assert logits.argmax(-1).tolist() == list(trace.token_ids)
    with pytest.raises(ValueError, match="the model has 3 layers"):
        generate(
            tiny_model,
            ["Hi"],
            parse_intervention(f"{module}:{name}(7)"),
            max_new_tokens=2,
            progress=False,
        )


def test_hook_names_of_an_action_are_checked_before_generation(tiny_model):
    @dataclass(frozen=True)
    class Misspelt(Intervention):
        def bind(self, model):
            action = Action()
            action.hook_names = ("blocks.1.atn.hook_z",)
            return action

        def to_json(self):
            return asdict(self)

    with pytest.raises(ValueError, match=r"does not exist .*near: .*blocks\.1\.attn\.hook_z"):
        generate(tiny_model, ["Hi"], Misspelt(), max_new_tokens=2, progress=False)


def test_what_cannot_be_registered():
    with pytest.raises(ValueError, match="expected a frozen dataclass that subclasses"):
        register_intervention(int)

    @dataclass(frozen=True)
    class Suppress(Intervention):
        def bind(self, model):
            return Action()

        def to_json(self):
            return {}

    with pytest.raises(ValueError, match="has an intervention 'Suppress' already"):
        register_intervention(Suppress)
    assert parse_intervention("mi_lens.interventions.forbid:ForbidAt(4, 7)") == ForbidAt(4, 7)


def test_modules_in_texts():
    assert as_expression("a.b:C(x='d:E(', y=1)") == "a.b.C(x='d:E(', y=1)"
    assert as_expression("Suppress(['a:B('])") == "Suppress(['a:B('])"
    for text in ("missing_module:A(1)", "json:Nothing(1)", "json:JSONDecoder()"):
        with pytest.raises(ValueError, match=r"missing_module|json"):
            parse_intervention(text, import_modules=True)
