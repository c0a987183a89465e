import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import mi_lens
from mi_lens.common.provenance import content_hash
from mi_lens.problems.problem import Problem
from mi_lens.problems.think_kinds import THINK_KINDS
from mi_lens.traces.think_block import written_text
from mi_lens.traces.trace import Trace
from mi_lens.traces.trace_files import Traces
from tests.think_blocks import FAMILIES, tokenizer_of

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
    without = Trace.from_text(tokenizer, PROBLEM, "So 4")
    assert (with_tag.token_ids, with_tag.text) == (without.token_ids, without.text)
    raw = Trace.from_text(tokenizer, PROBLEM, "<think>So 4", style="raw")
    assert raw.text == "<think>So 4"


def test_a_problem_may_be_required(trace):
    assert trace.require_problem("to grade it by") is trace.problem
    with pytest.raises(ValueError, match="trace x has no problem to grade it by; generate it from"):
        replace(trace, id="x", problem=None).require_problem("to grade it by")


def test_empty_text_is_refused(tokenizer):
    with pytest.raises(ValueError, match="p/1: the text to import is empty"):
        Trace.from_text(tokenizer, PROBLEM, "<think>\n")


def test_ids_tell_contents_apart(tokenizer):
    texts = ["So 4", "So 5", "So 4 "]
    settings: Any = ({}, {"seed": 1}, {"condition": "quiet"}, {"model": "other"})
    for reader in (None, tokenizer):
        ids = {Trace.from_text(reader, PROBLEM, t, **more).id for t in texts for more in settings}
        assert len(ids) == 12
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


def test_text_alone_has_no_steps(tokenizer):
    alone = Trace.from_text(None, PROBLEM, "So 4")
    assert alone.text_only
    assert (alone.prompt, alone.text) == (PROBLEM.question, "So 4")
    refused = (len, lambda t: t.consumed_ids, lambda t: t.token_strings(tokenizer))
    for act in refused:
        with pytest.raises(ValueError, match=r"text alone, .* by trace.tokenized"):
            act(alone)
    assert "4 characters of text alone, imported" in repr(alone)
    assert "So 4" in alone._repr_html_()
    assert "So 4" in Traces([alone])._repr_html_()
    with pytest.raises(ValueError, match="its prompt has no tokens"):
        replace(alone, token_ids=(1,))


def test_text_alone_gets_token_ids(tokenizer):
    settings: Any = {"seed": 7, "condition": "published", "is_correct": False, "model": "m"}
    alone = Trace.from_text(None, PROBLEM, "<think>\nSo 4", **settings)
    trace = alone.tokenized(tokenizer)
    assert trace == Trace.from_text(tokenizer, PROBLEM, "<think>\nSo 4", **settings)
    assert trace.text == "So 4"
    assert len(trace) == len(trace.token_ids) > 0
    assert (trace.seed, trace.condition, trace.is_correct) == (7, {"name": "published"}, False)
    assert alone.tokenized(tokenizer, style="raw").text == "<think>\nSo 4"
    with pytest.raises(ValueError, match="has token ids; for those of another tokenizer"):
        trace.tokenized(tokenizer)


@pytest.mark.parametrize(
    ("text", "settings", "reason"),
    [
        ("<think>So", {}, "length"),
        ("<think>So</think>4", {}, "imported"),
        ("So</think>4", {"think_open": True}, "imported"),
        ("So", {"think_open": True}, "length"),
        ("So", {}, "imported"),
        ("<think>So", {"stop_reason": "eos"}, "eos"),
    ],
)
def test_why_imported_text_ended(tokenizer, text, settings, reason):
    assert Trace.from_text(None, PROBLEM, text, **settings).stop_reason == reason
    assert Trace.from_text(tokenizer, PROBLEM, text, **settings).stop_reason == reason


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_imported_text_of_every_kind_of_block(family):
    tokenizer = tokenizer_of(family)
    opening = THINK_KINDS[family.kind].opening
    text = family.text if family.begins else f"{opening}\n{family.text}"
    for reader in (None, tokenizer):
        assert Trace.from_text(reader, PROBLEM, text).stop_reason == "imported"
        cut = Trace.from_text(reader, PROBLEM, text.split(family.turns)[0])
        assert cut.stop_reason == "length"
    trace = Trace.from_text(tokenizer, PROBLEM, text)
    # What the prompt ends with is not written again.
    assert trace.text == family.text
    assert written_text(tokenizer, trace.token_ids) == family.text


def test_half_a_character_is_refused():
    with pytest.raises(ValueError, match=r"p/1: the text to import holds .*half of a character"):
        Trace.from_text(None, PROBLEM, "So \ud800")


def test_what_needs_steps_refuses_text_alone(tiny_model):
    alone = Trace.from_text(None, PROBLEM, "So 12\n\nWait, so 4")
    model, hook_name = tiny_model, "blocks.0.hook_resid_post"
    for act in (
        lambda: mi_lens.capture(model, [alone], [hook_name]),
        lambda: mi_lens.show(alone, np.zeros(1), tokenizer=model.tokenizer),
        lambda: mi_lens.at_token([alone], [3], 1),
        lambda: mi_lens.at_boundary(model.tokenizer, [alone], 1),
        lambda: mi_lens.at_fraction([alone], 0.5),
        lambda: mi_lens.matched_controls(model.tokenizer, [alone], ["so"]),
        lambda: mi_lens.attention_to_words(model, [alone], ["so"]),
        lambda: mi_lens.budget_curve(model, [alone], [4]),
        lambda: mi_lens.continue_traces(model, [alone], "Wait", 8),
        lambda: mi_lens.roll_out(model, [alone], [[0]]),
        lambda: mi_lens.Suppress(["so"]).fwd_hooks(model, alone),
    ):
        with pytest.raises(ValueError, match=r"is text alone, .* by trace.tokenized"):
            act()
