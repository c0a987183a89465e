"""Every study runs small and says what it found; what studies share says it truly."""

import json
import re
import warnings
from dataclasses import dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

import mi_lens
from experiments import (
    STUDIES,
    STUDIES_OF_TEXTS,
    error_bounds,
    mi_along_trace,
    peak_interventions,
    reasoning_against_base,
)
from experiments.__main__ import Config as AllConfig
from experiments.__main__ import main as run_all
from experiments.gallery import write_gallery
from experiments.small_benchmarks import discordance, net_gains
from experiments.study import (
    VERDICTS,
    Finding,
    Study,
    command,
    plain,
    save,
    study_name,
)
from experiments.summaries import is_right, side, with_interval
from mi_lens.common.statistics import Estimate
from tests.processes import result_of

PROBLEMS = 12
CHEAPER: dict[str, dict[str, Any]] = {
    "answer_state_choices": {"limit": 6, "mismatched": 4},
    "boundary_reproducibility": {"samples": 2, "dtypes": ("float64",), "thoughts": 1},
    "critical_tokens": {"samples": 4, "rolled_out": 2, "steps": 2, "continuations": 2},
    "critical_words": {"samples": 4, "minimum_problems": 2},
    "error_bounds": {"limit": 24},
    "information_across_problems": {"limit": 24, "parts": ("parity",), "shuffles": 2},
    "peak_interventions": {"tried": 4, "steps": 2},
    "recycling": {"passes": (1, 2), "layers": (2,), "draws": 1},
    "reproducibility": {"limit": 4, "dtypes": ("float32", "float64")},
    "seal_table": {"limit": 8, "draws": 1},
    "small_benchmarks": {"limit": 6, "seeds": 2},
    "steering_ablations": {"limit": 6, "alphas": (0.5, 1.0)},
    "suppression": {"limit": 8, "words": ("Wait",), "draws": 1},
    "test_time_scaling": {
        "limit": 6,
        "words": ("Wait",),
        "samples": 2,
        "max_new_tokens": 384,
        "budgets": (64, 128, 384),
    },
    "truncation": {"draws": 1, "budgets": 5},
    "vector_stability": {"splits": 10},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all studies: an analysis that several read is made once."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(autouse=True)
def no_figure_is_left_by_another_test():
    """Where one study fails, only it does."""
    plt.close("all")


def run_small(name: str, runs: Path, out: Path) -> dict[str, Any]:
    """Runs a study on few problems and returns its record."""
    settings = {"limit": PROBLEMS, "runs": runs, "out": out} | CHEAPER.get(name, {})
    result_of(run_study, name, settings)
    return json.loads((out / f"{name}.json").read_text(encoding="utf-8"))


def run_study(name: str, settings: dict[str, Any]) -> None:
    """Runs a study in a child, where types are not checked, which takes a third of the time.

    The functions that it calls have tests of their own, where types are.
    """
    warnings.filterwarnings("error", module="experiments|mi_lens")
    study = import_module(f"experiments.{name}")
    study.main(study.Config(**settings))
    assert not plt.get_fignums()


def no_constant(value: str) -> None:
    """NaN and infinity are no JSON."""
    raise AssertionError(f"{value} in the JSON")


@pytest.mark.parametrize("name", STUDIES_OF_TEXTS)
def test_a_study_of_texts_says_that_it_read_no_states(name: str, tmp_path: Path, shared_data: Path):
    study = import_module(f"experiments.{name}")
    study.main(study.Config(data=shared_data / "traces", limit=8, runs=tmp_path, out=tmp_path))
    text = (tmp_path / f"{name}.json").read_text(encoding="utf-8")
    record = json.loads(text, parse_constant=no_constant)
    assert len(text) < 100_000
    assert record["verdict"] in VERDICTS
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


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_a_study_draws_its_figure_and_says_what_it_found(name: str, runs: Path, tmp_path: Path):
    record = run_small(name, runs, tmp_path)
    assert record["verdict"] in VERDICTS
    assert record["about"]
    assert record["claim"]
    assert record["numbers"]
    assert "pocket-reasoner" in record["models"]
    assert record["command"].startswith(f"python -m experiments.{name}")
    sentences = [s for s in re.split(r"(?<=[.!?])\s+(?=[A-Z0-9'\"])", record["text"]) if s]
    assert len(sentences) == 2, record["text"]
    assert re.search(r"\d", record["text"])
    assert not re.search(r"\bNone\b|\bnan\b|\binf\b|-0\.0+\b", record["text"]), record["text"]
    written = (tmp_path / f"{name}.json").read_text(encoding="utf-8")
    json.loads(written, parse_constant=no_constant)
    assert len(written) < 1_000_000
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / f"{name}.svg").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_study_run_again_makes_no_trace_anew_and_says_the_same(runs: Path, tmp_path: Path):
    first = run_small("thought_gains", runs, tmp_path)
    traces = runs / "sampled" / "traces.jsonl"
    before = traces.read_bytes()
    assert run_small("thought_gains", runs, tmp_path) == first
    assert traces.read_bytes() == before


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
    for name in (*STUDIES, *STUDIES_OF_TEXTS):
        study = import_module(f"experiments.{name}")
        assert f"python -m experiments.{name}" in (study.__doc__ or "")
        assert issubclass(study.Config, Study)
        known = {field.name for field in fields(study.Config)}
        assert CHEAPER.get(name, {}).keys() <= known


def test_cheaper_settings_are_of_studies_that_exist():
    assert CHEAPER.keys() <= set(STUDIES)


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


def finding(verdict: Any) -> Finding:
    """A finding with a verdict."""
    return Finding("paper 1, figure 9", "All is well.", verdict, "It was 1. It was 2.")


def test_the_gallery_is_written_from_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    names = ("one", "two", "three", "absent")
    monkeypatch.setattr("experiments.gallery.STUDIES", names)
    for name, verdict in zip(names, ("with", "against", "with"), strict=False):
        monkeypatch.setattr("experiments.study.study_name", lambda _, name=name: name)
        save(
            Example(out=tmp_path, limit=5),
            {"pocket-base": "f1"},
            plt.figure(),
            finding(verdict),
            {"x": np.float64(1)},
        )
    text = write_gallery(tmp_path).read_text(encoding="utf-8")
    assert "3 figures: 2 with the paper, 1 against the paper" in text
    assert "0 not asked by the papers" in text
    assert text.index("## One") < text.index("## Two") < text.index("## Three")
    assert "Absent" not in text
    assert "`python -m experiments.two --limit 5`: pocket-base, 5 problems." in text
    for name in names[:3]:
        assert all((tmp_path / f"{name}.{suffix}").exists() for suffix in ("png", "svg", "json"))
        assert f"![{name.capitalize()}]({name}.png)" in text


def sure(mean: float) -> Estimate:
    """A mean that is known to within a twentieth."""
    return Estimate(mean, mean - 0.05, mean + 0.05, 50)


UNSURE = Estimate(0.1, -0.5, 0.7, 3)


@pytest.mark.parametrize(
    ("right", "wrong", "verdict"),
    [
        (sure(0.4), sure(0.1), "with"),
        (sure(0.4), sure(0.4), "in part"),
        (sure(0.4), None, "in part"),
        (sure(-0.4), sure(0.1), "against"),
        (UNSURE, UNSURE, "open"),
    ],
)
def test_mi_that_rises_along_wrong_traces_too_is_progress_in_part(right, wrong, verdict: str):
    by_name = {"right": [right]} | ({} if wrong is None else {"wrong": [wrong]})
    finding = mi_along_trace.finding(
        dict.fromkeys(mi_along_trace.KINDS, by_name), "last", {"raw": {"right": [sure(0.1)] * 10}}
    )
    assert finding.verdict == verdict


@pytest.mark.parametrize(
    ("error", "bits_low", "verdict"),
    [
        ((0.9, 0.1), 1.0, "in part"),
        ((0.9, 0.1), -0.1, "open"),
        ((0.9, 0.9), 1.0, "open"),
        ((0.1, 0.9), 1.0, "against"),
    ],
)
def test_a_probe_that_keeps_to_its_own_bounds_agrees_in_part(error, bits_low, verdict: str):
    probe = [sure(value) for value in error]
    bounds = error_bounds.Bounds(
        [0.0, 3.0], [(-0.1, 0.1), (bits_low, 3.2)], [0.8, 0.05], [0.9, 0.2], probe
    )
    assert error_bounds.finding(bounds, sure(0.1)).verdict == verdict


@pytest.mark.parametrize(
    ("raw", "less_matched", "less_any", "verdict"),
    [
        (-0.9, sure(-0.5), sure(-0.5), "with"),
        (-0.9, sure(-0.5), sure(0.0), "in part"),
        (-0.4, sure(0.0), sure(0.0), "against"),
        (-0.4, sure(0.0), UNSURE, "open"),
        (-0.1, sure(0.3), sure(0.3), "against"),
    ],
)
def test_peaks_are_crucial_where_they_harm_more_than_both_controls(
    raw: float, less_matched, less_any, verdict: str
):
    other = {"change": sure(-0.4), "less matched": sure(0.0), "less any steps": sure(0.0)}
    read = dict.fromkeys(peak_interventions.GROUPS, other) | {
        "raw peaks": {
            "change": sure(raw),
            "less matched": less_matched,
            "less any steps": less_any,
        }
    }
    finding = peak_interventions.finding(read, "last", 50, peak_interventions.Config())
    assert finding.verdict == verdict


def test_another_reasoner_is_not_compared_with_the_pocket_base():
    config = reasoning_against_base.Config(model="some/reasoner")
    with pytest.raises(ValueError, match=r"'some/reasoner' without a base.*--base"):
        reasoning_against_base.main(config)


def test_an_unknown_study_is_named_with_those_that_exist(tmp_path: Path):
    with pytest.raises(SystemExit, match=r"unknown studies \['nonsense'\].*specificity"):
        run_all(replace(AllConfig(), studies=("nonsense",), out=tmp_path, runs=tmp_path))
