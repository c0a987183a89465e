"""Effects of tokens and thoughts in a run's folder, from there to its page."""

import json
from dataclasses import asdict, replace

import pytest

from mi_lens.common.records import DamagedError, write_records
from mi_lens.evaluation.along_trace import effects_along
from mi_lens.report.page import write_report
from mi_lens.runs.check import check
from mi_lens.runs.effects_of_run import add_effects, effects_of_run
from mi_lens.traces.thoughts import split_thoughts
from tests.evaluation.along import a_belief, resampled, rollouts_at
from tests.report.conftest import THOUGHTS, build, build_evaluation  # noqa: F401

HOOK = "blocks.0.hook_resid_post"


@pytest.fixture
def analysis(build, tmp_path):  # noqa: F811
    return build(tmp_path / "run", [THOUGHTS, THOUGHTS * 2], [HOOK])


def test_what_is_added_comes_back(analysis, tokenizer):
    folder, (first, second) = analysis.config.out, analysis.traces
    assert effects_of_run(folder) == {}
    rollouts = [rollouts_at(first, 3), rollouts_at(second, 5)]
    thoughts = [resampled(second, split_thoughts(tokenizer, second)[0])]
    assert add_effects(folder, rollouts, thoughts) == folder / "effects.jsonl"
    assert effects_of_run(folder) == {
        trace.id: effects_along(trace.id, rollouts, thoughts) for trace in (first, second)
    }
    add_effects(folder, [rollouts_at(second, 7)])
    assert [effect.start for effect in effects_of_run(folder)[second.id]] == [7]
    assert [effect.start for effect in effects_of_run(folder)[first.id]] == [3]
    assert check(folder).damages == ()


def test_the_page_has_belief_and_effects(analysis, tmp_path):
    folder, (trace, other) = analysis.config.out, analysis.traces
    rows = [{"trace": trace.id, "belief": asdict(a_belief(trace)), "why": None}]
    rows += [{"trace": other.id, "belief": None, "why": "too long"}]
    write_records(folder / "belief.jsonl", rows)
    add_effects(folder, [rollouts_at(trace, 3)])
    text = write_report([folder], tmp_path / "page.html").read_text(encoding="utf-8")
    pages = [json.loads(text.split(f'id="trace-{i}">')[1].split("</script>")[0]) for i in range(2)]
    with_it = next(page for page in pages if page["id"] == trace.id)
    without = next(page for page in pages if page["id"] == other.id)
    assert with_it["belief"]["cuts"] == list(a_belief(trace).cuts)
    assert with_it["belief"]["settled"] == a_belief(trace).cuts[3]
    assert [line["answer"] for line in with_it["belief"]["lines"]] == ["79", "81"]
    ((start, stop, effect, low, high),) = with_it["effects"]
    assert (start, stop, effect) == (3, 4, 0.5)
    assert low < effect < high
    assert (without["belief"], without["effects"]) == (None, [])


def test_an_evaluation_has_a_place_for_it_too(build_evaluation, tmp_path):  # noqa: F811
    traces = build_evaluation(tmp_path / "run", {"baseline": [THOUGHTS]})
    add_effects(tmp_path / "run", [rollouts_at(traces[0], 3)])
    assert effects_of_run(tmp_path / "run").keys() == {traces[0].id}
    write_report([tmp_path / "run"], tmp_path / "page.html")


def test_what_does_not_belong_to_the_run_is_refused(analysis, tmp_path):
    folder, trace = analysis.config.out, analysis.traces[0]
    with pytest.raises(ValueError, match="has no trace another"):
        add_effects(folder, [replace(rollouts_at(trace, 3), trace="another")])
    with pytest.raises(ValueError, match="nothing to add"):
        add_effects(folder)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        add_effects(tmp_path / "nowhere", [rollouts_at(trace, 3)])
    assert not (folder / "effects.jsonl").exists()


def test_an_altered_file_is_noticed(analysis, tmp_path):
    folder, trace = analysis.config.out, analysis.traces[0]
    path = add_effects(folder, [rollouts_at(trace, 3)])
    path.write_text(path.read_text(encoding="utf-8").replace("0.5", "0.6"), encoding="utf-8")
    with pytest.raises(DamagedError, match="altered since it was written"):
        write_report([folder], tmp_path / "page.html")
    assert "altered since it was written" in check(folder).damages[0]
