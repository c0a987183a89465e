import json
from dataclasses import replace

import pytest

from mi_lens.common.provenance import content_hash
from mi_lens.problems.problem import Problem
from mi_lens.traces.trace import Trace, load_traces, save_traces

PROBLEM = Problem("p/1", "What is 2 + 2?", "4", solution="It is 4", level="easy")


@pytest.fixture
def trace(tokenizer):
    return Trace.from_text(tokenizer, PROBLEM, "So 2 + 2 = 4.\n\nWait, é \u2028 yes")


def test_imported_text_comes_back(trace, tokenizer):
    assert tokenizer.decode(trace.token_ids) == trace.text
    assert "".join(trace.token_strings(tokenizer)).startswith("So 2 + 2 = 4.\n\nWait")
    assert trace.stop_reason == "imported"
    assert len(trace) == len(trace.token_ids) == len(trace.consumed_ids)
    assert trace.consumed_ids == (trace.prompt_ids[-1], *trace.token_ids[:-1])


def test_an_opening_think_tag_is_not_read_twice(tokenizer):
    with_tag = Trace.from_text(tokenizer, PROBLEM, "<think>\nSo 4")
    assert with_tag.prompt.endswith("<think>")
    assert with_tag == Trace.from_text(tokenizer, PROBLEM, "So 4")
    raw = Trace.from_text(tokenizer, PROBLEM, "<think>So 4", style="raw")
    assert raw.text == "<think>So 4"


def test_a_problem_may_be_required(trace):
    assert trace.require_problem("to grade it by") is trace.problem
    with pytest.raises(ValueError, match="trace x has no problem to grade it by; generate it from"):
        replace(trace, id="x", problem=None).require_problem("to grade it by")


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
        (lambda r: r.update(prompt_ids=[]), "trace 1: .*its prompt has no tokens"),
    ):
        changed = dict(row)
        change(changed)
        path.write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=message):
            load_traces(path)


def test_empty_text_is_refused(tokenizer):
    with pytest.raises(ValueError, match="p/1: the text to import is empty"):
        Trace.from_text(tokenizer, PROBLEM, "<think>\n")


def test_ids_tell_contents_apart(tokenizer):
    texts = ["So 4", "So 5", "So 4 "]
    assert len({Trace.from_text(tokenizer, PROBLEM, text).id for text in texts}) == 3
    assert content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})


@pytest.mark.parametrize(
    "name",
    ["aime25_DeepSeek-R1-Distill-Qwen-1.5B", "cvenhoff_deepseek-r1-distill-llama-8b"],
)
def test_real_traces(shared_data, tokenizer, name):
    path = shared_data / "traces" / f"{name}.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:5]]
    for row in rows:
        problem = Problem(row["id"], row["question"], row["gold"] or "")
        trace = Trace.from_text(tokenizer, problem, row["response"], model=row["model"])
        text = row["response"].removeprefix("<think>").removeprefix("\n")
        assert trace.text == text
        assert tokenizer.decode(trace.token_ids) == text
        assert trace.model == row["model"]
