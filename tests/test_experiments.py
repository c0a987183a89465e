"""What studies share says truly what was found; studies of published texts."""

import json
import re
from dataclasses import dataclass, fields, replace
from importlib import import_module
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

import mi_lens
from experiments import (
    STUDIES,
    STUDIES_OF_SMOLLM2,
    STUDIES_OF_TEXTS,
    error_bounds,
    mi_along_trace,
    peak_interventions,
    reasoning_against_base,
)
from experiments.__main__ import Config as AllConfig
from experiments.__main__ import main as run_all
from experiments.gallery import write_gallery
from experiments.information_at_words import of_all_problems
from experiments.labels import ClaimTest, Finding, Premise, exactly, label_of_record
from experiments.small_benchmarks import discordance, net_gains
from experiments.study import Study, command, plain, save, study_name
from experiments.summaries import (
    affine,
    is_right,
    rank_correlation,
    side,
    with_interval,
)
from mi_lens.common.intervals import estimate_unpaired_difference
from mi_lens.common.statistics import Estimate
from mi_lens.information.across_problems.aligned_steps import AlignedSteps
from mi_lens.information.across_problems.answer_parts import AlignedInformation
from mi_lens.information.across_problems.probe import UsableInformation
from tests.processes import result_of
from tests.studies import CHEAPER, no_constant


@pytest.mark.parametrize("name", STUDIES_OF_TEXTS)
def test_a_study_of_texts_says_that_it_read_no_states(name: str, tmp_path: Path, shared_data: Path):
    study = import_module(f"experiments.{name}")
    study.main(study.Config(data=shared_data / "traces", limit=8, runs=tmp_path, out=tmp_path))
    text = (tmp_path / f"{name}.json").read_text(encoding="utf-8")
    record = json.loads(text, parse_constant=no_constant)
    assert len(text) < 100_000
    assert record["label"] == label_of_record(record)
    assert "states nobody read" in record["scope"]
    assert "8" in record["text"]
    assert not re.search(r"\bNone\b|\bnan\b|\binf\b|-0\.0+\b", record["text"]), record["text"]
    assert all((tmp_path / f"{name}.{kind}").exists() for kind in ("png", "svg"))
    gallery = write_gallery(tmp_path).read_text(encoding="utf-8")
    assert gallery.index("## Texts of large models") < gallery.index(f"({name}.png)")


def test_studies_of_texts_are_skipped_where_the_texts_are_not(tmp_path, capsys):
    for name in STUDIES_OF_TEXTS:
        study = import_module(f"experiments.{name}")
        study.main(study.Config(data=tmp_path / "nowhere", out=tmp_path))
        assert "nowhere: no folder of texts there, so this study is skipped" in (
            capsys.readouterr().out
        )
    assert [*tmp_path.iterdir()] == []


@dataclass(frozen=True, kw_only=True)
class Example(Study):
    """A study of this module."""

    words: tuple[str, ...] = ("Wait",)


def test_the_command_names_what_differs_and_not_where_results_lie(tmp_path: Path):
    config = Example(limit=7, words=("So", "Hmm"), runs=tmp_path, out=tmp_path, batch_size=1)
    assert study_name(config) == "test_experiments"
    assert command(config) == "python -m experiments.test_experiments --limit 7 --words So Hmm"
    assert command(Example()) == "python -m experiments.test_experiments"


def test_every_study_has_a_module_docstring_that_ends_in_its_command():
    for name in (*STUDIES, *STUDIES_OF_SMOLLM2, *STUDIES_OF_TEXTS):
        study = import_module(f"experiments.{name}")
        assert f"python -m experiments.{name}" in (study.__doc__ or "")
        assert issubclass(study.Config, Study)
        known = {field.name for field in fields(study.Config)}
        assert CHEAPER.get(name, {}).keys() <= known


def test_cheaper_settings_are_of_studies_that_exist():
    assert CHEAPER.keys() <= {*STUDIES, *STUDIES_OF_SMOLLM2}


def test_plain_leaves_only_what_json_knows():
    value = {
        3: np.float64(0.5),
        "array": np.array([[1, 2]]),
        "estimate": Estimate(1.0, None, None, 1),
        "set": frozenset({1}),
        "path": Path("a/b"),
        "undefined": float("nan"),
        "infinite": np.array([np.inf]),
    }
    assert plain(value) == {
        "3": 0.5,
        "array": [[1, 2]],
        "estimate": {"mean": 1.0, "low": None, "high": None, "n": 1},
        "set": [1],
        "path": "a/b",
        "undefined": None,
        "infinite": [None],
    }
    assert json.loads(json.dumps(plain(value), allow_nan=False)) == plain(value)


def test_with_interval_gives_the_interval_in_the_units_asked_for():
    estimate = Estimate(-0.0131, -0.02, 0.0, 9)
    assert with_interval(estimate, 100) == "-1.3 (-2.0 to 0.0)"
    assert with_interval(estimate, digits=2) == "-0.01 (-0.02 to 0.00)"
    assert with_interval(Estimate(-0.001, None, None, 1)) == "0.0"
    assert with_interval(Estimate(None, None, None, 0)) == "undefined"


def test_side_is_known_only_where_the_whole_interval_lies_there():
    assert side(Estimate(0.2, 0.1, 0.3, 9)) == 1
    assert side(Estimate(-0.2, -0.3, -0.1, 9)) == -1
    assert side(Estimate(0.2, -0.1, 0.3, 9)) == 0
    assert side(Estimate(0.2, None, None, 1)) == 0


def test_an_estimate_is_scaled_and_shifted_with_its_interval():
    estimate = Estimate(0.2, 0.1, 0.4, 9)
    assert affine(estimate, 100) == Estimate(20.0, 10.0, 40.0, 9)
    turned = affine(estimate, -1, 0.5)
    assert (turned.mean, turned.low, turned.high) == pytest.approx((0.3, 0.1, 0.4))
    assert affine(Estimate(0.2, None, None, 1), 10, 1) == Estimate(3.0, None, None, 1)


def test_a_difference_of_independent_means_is_as_wide_as_simulated():
    rng = np.random.default_rng(0)
    first, second = rng.normal(1, 0.3, 4000), rng.normal(0.2, 0.4, 4000)
    means = [
        Estimate(mean, mean - 1.96 * sd, mean + 1.96 * sd, 9)
        for mean, sd in ((1.0, 0.3), (0.2, 0.4))
    ]
    found = estimate_unpaired_difference(*means)
    low, high = np.quantile(first - second, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.05)
    nothing = Estimate(None, None, None, 0)
    assert estimate_unpaired_difference(means[0], nothing) == Estimate(None, None, None, 9)


def test_a_rank_correlation_has_its_steps_as_units():
    rng = np.random.default_rng(0)
    held = []
    for _ in range(300):
        first = rng.normal(size=23)
        estimate, p_value = rank_correlation(first, rng.normal(size=23))
        assert estimate.low is not None
        assert estimate.high is not None
        held.append((estimate.low < 0 < estimate.high, p_value > 0.05))
    assert np.mean(held, 0) == pytest.approx([0.95, 0.95], abs=0.04)
    rising, p_value = rank_correlation(np.arange(23.0), np.arange(23.0) ** 2)
    assert (rising.mean, rising.low, p_value) == (pytest.approx(1.0), None, 1 / 2000)


def test_gains_of_some_problems_spread_over_all_keep_mean_and_standard_error():
    gains = np.random.default_rng(0).normal(1.0, 2.0, 40)
    at = AlignedSteps("word", tuple([3] * 40 + [None] * 60))
    usable = UsableInformation(tuple(gains.tolist()), (True,) * 40, 1.0, (), tuple(range(40)))
    values = of_all_problems(AlignedInformation(at, usable), 100)
    assert values.mean() == pytest.approx(gains.mean())
    assert values.std() / 10 == pytest.approx(gains.std() / np.sqrt(40))


def test_right_traces_are_those_that_give_the_gold_answer():
    problem = mi_lens.Problem(id="p", question="6 * 7?", answer="42")
    traces = [
        mi_lens.Trace(f"{i}", "m", "6 * 7?", (1,), (2, 3), text, "eos", problem=problem)
        for i, text in enumerate((r"So \boxed{42}.", r"So \boxed{41}."))
    ]
    assert is_right(traces).tolist() == [1.0, 0.0]


def test_net_gains_of_two_equal_runs_are_as_simulated():
    rng = np.random.default_rng(0)
    chance = rng.uniform(size=200)
    right = (rng.uniform(size=(200, 6)) < chance[:, None]).astype(float)
    up, down = discordance(right, right).mean(0)
    # Over all ordered pairs of two of the seeds, counted one by one.
    pairs = [(right[:, i], right[:, j]) for i in range(6) for j in range(6) if i != j]
    assert up == pytest.approx(np.mean([(a > b).mean() for a, b in pairs]))
    assert down == pytest.approx(up)
    gains = net_gains(np.array([up, down]), 30)
    assert sum(gains.values()) == pytest.approx(1.0)
    assert gains[4] == pytest.approx(gains[-4])
    drawn = rng.choice([-1, 0, 1], p=[down, 1 - up - down, up], size=(20_000, 30)).sum(1)
    expected = sum(p for gain, p in gains.items() if gain >= 2)
    assert (drawn >= 2).mean() == pytest.approx(expected, abs=0.02)


def test_a_condition_that_mends_everything_only_gains():
    right, base = np.ones((5, 3)), np.zeros((5, 3))
    assert discordance(right, base).tolist() == [[1.0, 0.0]] * 5
    assert net_gains(discordance(right, base).mean(0), 4)[4] == pytest.approx(1.0)


def finding(effect: float, premises: tuple[Premise, ...] = ()) -> Finding:
    """A finding with one test, whose effect is known to within a tenth."""
    estimate = Estimate(effect, effect - 0.1, effect + 0.1, 9)
    tests = (ClaimTest("gain", estimate, 0.5, "points"),)
    return Finding("paper 1, figure 9", "All is well.", "It was 1. It was 2.", premises, tests)


def test_the_gallery_is_written_from_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    names = ("one", "two", "three", "four", "absent")
    monkeypatch.setattr("experiments.gallery.STUDIES", names)
    lost = Premise("It takes 3; it is 1.", "premise not met", exactly(1), 3)
    findings = (finding(0.2), finding(-0.2), finding(0.7), finding(0.7, (lost,)))
    for name, of_study in zip(names, findings, strict=False):
        monkeypatch.setattr("experiments.study.study_name", lambda _, name=name: name)
        models, numbers = {"pocket-base": "f1"}, {"x": np.float64(1)}
        save(Example(out=tmp_path, limit=5), models, plt.figure(), of_study, numbers)
    text = write_gallery(tmp_path).read_text(encoding="utf-8")
    # By label, and in the order of the studies within one.
    places = [text.index(f"### {name}") for name in ("Three", "Two", "One", "Four")]
    assert places == sorted(places)
    assert "- **Premise met and tested: against the claim**: [Two](#two)." in text
    assert "- Test: gain, 0.7 (0.6 to 0.8) points; margin 0.5.\n" in text
    assert "- Premise, not met. It takes 3; it is 1.\n- Effect, which does not count" in text
    assert "Absent" not in text
    assert "`python -m experiments.two --limit 5`: pocket-base, 5 problems." in text
    for name in names[:4]:
        assert all((tmp_path / f"{name}.{suffix}").exists() for suffix in ("png", "svg", "json"))
        assert f"![{name.capitalize()}]({name}.png)" in text


def test_a_record_of_an_earlier_version_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("experiments.gallery.STUDIES", ("one",))
    (tmp_path / "one.json").write_text('{"verdict": "with", "models": {}}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"records without a label.*: one; draw them again"):
        write_gallery(tmp_path)


def sure(mean: float) -> Estimate:
    """A mean that is known to within a twentieth."""
    return Estimate(mean, mean - 0.05, mean + 0.05, 50)


UNSURE = Estimate(0.1, -0.5, 0.7, 3)


@pytest.mark.parametrize(
    ("right", "wrong", "label"),
    [
        (sure(0.4), sure(0.1), "with"),
        (sure(0.4), sure(0.4), "open"),
        (sure(0.4), sure(0.6), "against"),
        (sure(0.4), None, "open"),
        (sure(-0.4), sure(0.1), "against"),
        (UNSURE, UNSURE, "open"),
    ],
)
def test_mi_that_rises_along_wrong_traces_too_is_no_progress(right, wrong, label: str):
    by_name = {"right": [right]} | ({} if wrong is None else {"wrong": [wrong]})
    finding = mi_along_trace.finding(
        dict.fromkeys(mi_along_trace.KINDS, by_name), "last", {"raw": {"right": [sure(0.1)] * 10}}
    )
    assert finding.label == label


@pytest.mark.parametrize("error", [(0.9, 0.1), (0.1, 0.9)])
def test_the_bounds_of_a_probe_on_its_own_error_test_nothing(error):
    probe = [sure(value) for value in error]
    bounds = error_bounds.Bounds(
        [0.0, 3.0], [(-0.1, 0.1), (1.0, 3.2)], [0.8, 0.05], [0.9, 0.2], probe
    )
    assert error_bounds.finding(bounds, sure(0.1)).label == "by construction"


@pytest.mark.parametrize(
    ("less_matched", "less_any", "label"),
    [
        (sure(-0.5), sure(-0.5), "with"),
        (sure(-0.5), Estimate(-0.02, -0.1, 0.06, 50), "open"),
        (sure(0.1), sure(-0.5), "against"),
        (UNSURE, UNSURE, "open"),
    ],
)
def test_peaks_are_crucial_where_they_harm_more_than_both_controls(
    less_matched, less_any, label: str
):
    other = {"change": sure(-0.4), "less matched": sure(0.0), "less any steps": sure(0.0)}
    read = dict.fromkeys(peak_interventions.GROUPS, other) | {
        "raw peaks": {
            "change": sure(-0.9),
            "less matched": less_matched,
            "less any steps": less_any,
        }
    }
    finding = peak_interventions.finding(read, "last", 50, peak_interventions.Config())
    assert finding.label == label


def test_another_reasoner_is_not_compared_with_the_pocket_base():
    config = reasoning_against_base.Config(model="some/reasoner")
    with pytest.raises(ValueError, match=r"'some/reasoner' without a base.*--base"):
        reasoning_against_base.main(config)


def test_another_model_has_folders_of_its_own_and_its_own_base(tmp_path: Path):
    settings = AllConfig(
        ("reasoning_against_base",), "pocket-rl", 4, tmp_path / "runs", tmp_path / "figures"
    )
    result_of(run_all, settings)
    out = tmp_path / "figures" / "pocket-rl"
    record = json.loads((out / "reasoning_against_base.json").read_text(encoding="utf-8"))
    assert record["models"].keys() == {"pocket-rl", "pocket-rl-base"}
    assert record["command"].endswith("reasoning_against_base --model pocket-rl --limit 4")
    assert "built-in pocket models, `pocket-rl`, `pocket-rl-base`," in (
        out / "README.md"
    ).read_text(encoding="utf-8")
    assert {path.name for path in tmp_path.rglob("pocket-rl")} == {"pocket-rl"}
    assert not [*(tmp_path / "figures").glob("*.*")]
    with pytest.raises(SystemExit, match=r"unknown studies \['thoughts_of_real_models'\]"):
        run_all(replace(settings, studies=("thoughts_of_real_models",)))


def test_an_unknown_study_is_named_with_those_that_exist(tmp_path: Path):
    with pytest.raises(SystemExit, match=r"unknown studies \['nonsense'\].*specificity"):
        run_all(replace(AllConfig(), studies=("nonsense",), out=tmp_path, runs=tmp_path))
