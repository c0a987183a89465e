"""The sentence that opens the page says yes, no, or that it cannot be known."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from mi_lens.report.conclusion import conclusions
from mi_lens.report.loading import read_runs
from mi_lens.report.page import write_report
from tests.report.conftest import THOUGHTS

HOOKS = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
TRACES = 6


@pytest.fixture(scope="module")
def run(build, tmp_path_factory):
    """An analysis of six traces at two layers, as the page reads it."""
    folder = tmp_path_factory.mktemp("conclusion") / "run"
    build(folder, [THOUGHTS * (1 + i % 2) for i in range(TRACES)], HOOKS)
    (run,) = read_runs([folder])
    return run


def with_family(run, chosen, others=64):
    """The run, with a specific peak halfway in its first traces, at the second layer only."""
    measurements = {}
    for i, trace in enumerate(run.analysis.traces):
        measurements[trace.id] = {}
        for hook_name, m in run.analysis.measurements[trace.id].items():
            steps = len(trace)
            specific, family = np.zeros(steps), np.ones(steps)
            if hook_name == HOOKS[1] and i < chosen:
                specific[steps // 2], family[steps // 2] = 9.0, 0.01
            calibration = replace(
                m.calibration, others=others, specific=specific, family_p_values=family
            )
            measurements[trace.id][hook_name] = replace(m, calibration=calibration)
    return replace(run, analysis=replace(run.analysis, measurements=measurements))


def only(runs):
    (conclusion,) = conclusions(runs)
    (part,) = conclusion.parts
    return part


def test_where(run):
    _, verdict, numbers = only([with_family(run, 4)])
    assert verdict == "after 50 (50 to 50) % of the trace, in 4 of 6 traces"
    assert f"64 other answers at {HOOKS[1]}, and chance alone gives at most 0.3" in numbers
    p = 2 * sum(binom.pmf(k, TRACES, 0.05) for k in range(4, TRACES + 1))  # Holm: the first of two
    assert f"(p = {p:.2g}, p corrected for 2 layers)" in numbers


def test_nowhere(run):
    _, verdict, numbers = only([with_family(run, 1)])
    assert verdict == "nowhere that MI can tell from chance"
    assert f"at {HOOKS[1]}, MI" in numbers
    assert "in 1 of 6 traces" in numbers
    _, verdict, numbers = only([with_family(run, 0)])
    assert verdict == "nowhere that MI can tell from chance"
    assert "in 0 of 6 traces" in numbers
    assert "(p = 1," in numbers


@pytest.mark.parametrize("others", [3, 18])
def test_with_few_other_answers_it_cannot_be_known(run, others):
    _, verdict, numbers = only([with_family(run, 6, others)])
    assert verdict == "it cannot be known"
    assert numbers.endswith(f"at least 19 of them, and these traces have {others}")
    assert only([with_family(run, 6, 19)])[1].startswith("after 50")


def test_without_other_answers_it_cannot_be_known(run):
    bare = {
        i: {n: replace(m, calibration=None) for n, m in by_hook.items()}
        for i, by_hook in run.analysis.measurements.items()
    }
    _, verdict, numbers = only([replace(run, analysis=replace(run.analysis, measurements=bare))])
    assert verdict == "it cannot be known"
    assert numbers.endswith("fewer than two")


RIGHT, WRONG = THOUGHTS + "So \\boxed{79}", THOUGHTS + "So \\boxed{80}"


def changed(build_evaluation, folder, texts):
    build_evaluation(folder, texts)
    return only(read_runs([folder]))


def test_what_conditions_changed(build_evaluation, tmp_path):
    base = [RIGHT] * 20 + [WRONG] * 20
    _, verdict, numbers = changed(
        build_evaluation, tmp_path / "a", {"base": base, "better": [RIGHT] * 40, "idle": base}
    )
    assert verdict == "better changed the accuracy"
    assert numbers.startswith("on 40 problems, of which base has 50 (")
    assert "better changes this by +50.0 (" in numbers
    assert "(p = 3.8e-06)" in numbers  # 2 ** -19, doubled: the smaller of two
    assert numbers.endswith("idle wrote the same tokens as base everywhere")
    _, verdict, numbers = changed(build_evaluation, tmp_path / "b", {"base": base, "idle": base})
    assert verdict == "nothing"
    assert numbers == "idle wrote the same tokens as base on all 40 problems"
    few = {"base": [RIGHT, WRONG], "new": [WRONG, WRONG]}
    _, verdict, numbers = changed(build_evaluation, tmp_path / "c", few)
    assert verdict == "it cannot be known whether new changed the accuracy"
    assert "p = 1" in numbers
    assert numbers.endswith("the interval does not exclude a change of five points")


@pytest.mark.parametrize(("problems", "equal"), [(60, False), (80, True)])
def test_no_change_is_said_where_the_interval_excludes_one(
    build_evaluation, tmp_path, problems, equal
):
    texts = {"base": [RIGHT] * problems, "other": [RIGHT + " Yes."] * problems}
    _, verdict, _ = changed(build_evaluation, tmp_path / "run", texts)
    if equal:
        assert verdict == "the accuracy changed by less than five points"
    else:
        assert verdict == "it cannot be known whether other changed the accuracy"


def test_one_condition_is_compared_with_nothing(build_evaluation, tmp_path):
    _, verdict, numbers = changed(build_evaluation, tmp_path / "run", {"base": [RIGHT]})
    assert (verdict, numbers) == ("it cannot be known", "base is the only condition")


def test_the_sentence_opens_the_page(run, build_evaluation, tmp_path):
    build_evaluation(tmp_path / "e", {"base": [RIGHT], "new": [RIGHT]})
    page = write_report([run.folder, tmp_path / "e"], tmp_path / "page.html").read_text()
    title, rest = page.split("</h1>")
    assert title.endswith("Where in its reasoning does the model come to know the answer?")
    sentence = rest.split("</p>")[0]
    assert f"<strong>{only([run])[1][0].upper()}{only([run])[1][1:]}</strong>: " in sentence
    assert "<em>What did the conditions change?</em> <strong>Nothing</strong>" in rest
