"""Beliefs in a run's folder: kept as they are told, and continued after a kill."""

from dataclasses import replace
from unittest import mock

import pytest

import mi_lens.runs.ask
from mi_lens.common.files import write_jsonl
from mi_lens.common.records import read_records
from mi_lens.information.per_trace.belief import answer_belief
from mi_lens.models.loading import load
from mi_lens.runs.analysis import Analysis
from mi_lens.runs.analyze import analyze
from mi_lens.runs.ask import ask_into
from mi_lens.runs.check import check
from mi_lens.runs.config import AnalyzeConfig
from mi_lens.runs.status import status

PROBLEMS = [
    {"question": f"What is {i} + 12?", "answer": str(i + 12), "solution": f"It is {i + 12}"}
    for i in range(3)
]
ASKING = "</think> \\boxed{"


@pytest.fixture(scope="module")
def config(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("asked")
    write_jsonl(folder / "problems.jsonl", PROBLEMS)
    return AnalyzeConfig(
        model=str(checkpoint("llama")),
        problems=str(folder / "problems.jsonl"),
        out=folder / "run",
        max_new_tokens=9,
        belief=4,
        asking=ASKING,
    )


@pytest.fixture(scope="module")
def analysis(config):
    return analyze(config, progress=False)


@pytest.fixture(scope="module")
def model(config):
    return load(config.model)


def test_a_run_keeps_what_the_function_tells(config, analysis, model):
    expected = answer_belief(model, analysis.traces, every=4, asking=ASKING)
    assert [analysis.beliefs[trace.id] for trace in analysis.traces] == expected
    assert Analysis.load(config.out).beliefs == analysis.beliefs
    assert check(config.out).damages == ()
    assert "3 asked" in str(status(config.out))


def test_a_killed_run_asks_each_trace_once(config, analysis, model, tmp_path):
    asked, append = [], mi_lens.runs.ask.append_record

    def dies(path, row):
        append(path, row)
        asked.append(row["trace"])
        if len(asked) == 2:
            raise KeyboardInterrupt

    with (
        mock.patch.object(mi_lens.runs.ask, "append_record", dies),
        pytest.raises(KeyboardInterrupt),
    ):
        ask_into(tmp_path, model, analysis.traces, 4, ASKING, progress=False)
    path = tmp_path / "belief.jsonl"
    path.write_bytes(path.read_bytes()[:-9])  # in the middle of a line
    with mock.patch.object(mi_lens.runs.ask, "append_record", wraps=append) as appended:
        beliefs = ask_into(tmp_path, model, analysis.traces, 4, ASKING, progress=False)
    assert appended.call_count == 2
    assert beliefs == analysis.beliefs


def test_a_trace_without_room_says_so(config, analysis, model, tmp_path, capsys):
    full = replace(analysis.traces[0], id="full", token_ids=analysis.traces[0].token_ids * 27)
    beliefs = ask_into(tmp_path, model, [full, analysis.traces[1]], 4, ASKING)
    assert beliefs == {"full": None, analysis.traces[1].id: analysis.beliefs[analysis.traces[1].id]}
    row = next(row for row in read_records(tmp_path / "belief.jsonl") if row["trace"] == "full")
    assert "more than the model's context 256" in row["why"]
    told = capsys.readouterr().err
    assert "1 of 2 traces cannot be asked; the first: trace full has" in told
    assert "1 traces are read once" in told


def test_settings_are_checked_before_a_folder_is_made(config, tmp_path):
    with pytest.raises(ValueError, match="asking='x' with belief=None"):
        replace(config, belief=None, asking="x")
    with pytest.raises(ValueError, match="belief"):
        replace(config, belief=0)
    with pytest.raises(ValueError, match="forces no answers"):
        replace(config, engine="vllm", read_with="engine", keep_states=False)
    empty = replace(config, out=tmp_path / "run", asking="")
    with pytest.raises(ValueError, match="asking=''"):
        analyze(empty)
    assert not empty.out.exists()
