import pytest

import mi_lens
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.temperature import RaiseTemperature
from mi_lens.runs.sweep_spec import Spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("conditions: [baseline]\nmodles: [a]", r"unknown \['modles'\]"),
        ("models: [a]", "no conditions"),
        ("conditions: ['rr{layer}=Recycle({layer}, [3])']", r"the grid has no \['layer'\]"),
        ("conditions: ['rr=Recycle({l}, [3])']\ngrid: {l: [1, 2]}", "several conditions are named"),
        ("conditions: ['rr{seed}=Recycle({seed}, [3])']\ngrid: {seed: [1]}", r"grid: \['seed'\]"),
        ("conditions: ['a=Recycel(1)']", "'Recycel': expected one of"),
        ("conditions: [", "not YAML"),
        ("[1, 2]", "expected names and values"),
    ],
)
def test_specs_that_are_none(tmp_path, text, message):
    (tmp_path / "spec.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        Spec.read(tmp_path / "spec.yaml")


def test_a_spec_may_be_python():
    spec = Spec(("baseline", "hot{t}=RaiseTemperature(['Wait'], {t})"), {"t": (0.5, 1.0)})
    hot = [Condition((RaiseTemperature(["Wait"], t),)) for t in (0.5, 1.0)]
    assert spec.expand() == [Condition(), *hot]
    assert [condition.name for condition in spec.expand()] == ["baseline", "hot0.5", "hot1.0"]


def test_conditions_know_their_place_on_the_grid():
    spec = Spec(
        ("baseline", "rr{layer}-{word}=Recycle({layer}, ['{word}'])", "all=Recycle(0, ['So'])"),
        {"layer": (0, 2), "word": ("So",), "unused": (1,)},
    )
    points = spec.points()
    assert [point.condition for point in points] == spec.expand()
    assert [point.family for point in points] == ["baseline", *["rr{layer}-{word}"] * 2, "all"]
    assert [point.values for point in points] == [
        {},
        {"layer": 0, "word": "So"},
        {"layer": 2, "word": "So"},
        {},
    ]


def test_where_it_is_found():
    from mi_lens.runs import sweep

    assert mi_lens.Spec is sweep.Spec is Spec
