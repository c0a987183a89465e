import json
from dataclasses import replace

import pytest

from mi_lens.problems.problem import Problem
from mi_lens.traces.trace import Trace
from mi_lens.traces.trace_files import load_traces, save_traces

PROBLEM = Problem("p/1", "What is 2 + 2?", "4", solution="It is 4", level="easy")


@pytest.fixture
def trace(tokenizer):
    return Trace.from_text(tokenizer, PROBLEM, "So 2 + 2 = 4.\n\nWait, é \u2028 yes")


def test_files_come_back(trace, tmp_path):
    other = replace(trace, id="other", problem=None, condition={"temperature": 0.6}, seed=3)
    save_traces([trace, other], tmp_path / "t.jsonl")
    assert load_traces(tmp_path / "t.jsonl") == [trace, other]
    assert trace.condition == {}


def test_bad_files(trace, tmp_path):
    path = tmp_path / "t.jsonl"
    save_traces([trace], path)
    row = json.loads(path.read_text())
    del row["checksum"]
    for change, message in (
        (lambda r: r.pop("token_ids"), "trace 1: not a trace: 'token_ids'"),
        (lambda r: r.update(surprise=1), "trace 1: not a trace: .*surprise"),
        (lambda r: r.update(is_correct="yes"), "(?s)trace 1: .*is_correct"),
        (lambda r: r.update(prompt_ids=[]), "trace 1: .*its prompt has no tokens"),
    ):
        changed = dict(row)
        change(changed)
        path.write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=message):
            load_traces(path)


@pytest.mark.parametrize("name", ["t.jsonl", "t.parquet"])
def test_text_alone_comes_back(trace, tmp_path, name):
    alone = Trace.from_text(None, PROBLEM, "So 4", condition="published", is_correct=True)
    for traces in ([alone], [trace, alone]):
        save_traces(traces, tmp_path / name)
        assert load_traces(tmp_path / name) == traces


def test_files_without_labels_are_read(trace, tmp_path):
    save_traces([trace], tmp_path / "t.jsonl")
    row = json.loads((tmp_path / "t.jsonl").read_text())
    del row["checksum"], row["is_correct"]
    (tmp_path / "t.jsonl").write_text(json.dumps(row))
    assert load_traces(tmp_path / "t.jsonl") == [trace]
