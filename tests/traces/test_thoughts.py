import json
import re
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from mi_lens.generation.generate import generate
from mi_lens.interventions.row import Row
from mi_lens.models.loading import load
from mi_lens.problems.loading import load_problems
from mi_lens.problems.problem import Problem
from mi_lens.problems.think_kinds import THINK_KINDS, use_think_kind
from mi_lens.states.capture import capture
from mi_lens.traces.think_block import boundary_ids, boundary_steps, completes_blank_line, opened_by
from mi_lens.traces.thought_statistics import thought_statistics
from mi_lens.traces.thoughts import (
    EASYSTEER,
    SEAL,
    ThoughtRule,
    classify,
    split_text,
    split_thoughts,
)
from mi_lens.traces.trace import Trace
from tests.think_blocks import FAMILIES, new_tokenizer, tokenizer_of
from tests.traces.conftest import bare

PROBLEM = Problem("p", "What is 12 * 7?", "84", level="easy")


@pytest.fixture(scope="module")
def pocket():
    return load("pocket-reasoner")


def imported(tokenizer, text: str, problem: Problem = PROBLEM, **settings: Any) -> Trace:
    return Trace.from_text(tokenizer, problem, text, **settings)


@pytest.mark.parametrize(
    ("text", "seal", "easysteer"),
    [
        ("So 12 * 7 = 84.", "execution", "execution"),
        ("Wait, is that so?", "reflection", "reflection"),
        (" \nWAIT a moment", "reflection", "reflection"),
        ("I'll wait and see.", "execution", "reflection"),
        ("Let me Check this.", "reflection", "reflection"),
        ("That's incorrect.", "reflection", "reflection"),
        ("Alternatively, swap them.", "transition", "transition"),
        ("Or, alternatively, swap them.", "execution", "transition"),
        ("There is Another Way to do it.", "transition", "transition"),
        # Both classes claim it: the precedences differ.
        ("Wait, another approach would do.", "reflection", "transition"),
        ("", "execution", "execution"),
    ],
)
def test_published_rules(text, seal, easysteer):
    assert classify(text) == seal
    assert classify(text, EASYSTEER) == easysteer


def test_every_published_keyword_decides():
    for rule in (SEAL, EASYSTEER):
        for thought_class, words in rule.substrings.items():
            for word in words:
                assert classify(f"we see {word.upper()} here", rule) == thought_class
        for thought_class, words in rule.prefixes.items():
            for word in words:
                assert classify(f"{word.upper()} here", rule) == thought_class
                assert classify(f"we see {word} here", rule) == "execution"


def test_own_rule():
    rule = ThoughtRule(
        "own", {"execution": ["So"]}, {"reflection": ["hmm"]}, ("execution", "reflection")
    )
    assert classify("so, hmm", rule) == "execution"
    assert classify("now, hmm", rule) == "reflection"
    assert classify("Wait", rule) == "execution"


@pytest.mark.parametrize(
    ("prefixes", "substrings", "precedence", "message"),
    [
        ({"doubt": ["Hmm"]}, {}, ("reflection",), "'doubt'; expected some of"),
        ({}, {}, ("doubt",), "'doubt'; expected some of"),
        ({"transition": ["Or"]}, {}, ("reflection",), "keywords for 'transition', which its"),
        ({}, {"reflection": ["", "hmm"]}, ("reflection",), "not empty"),
        ({}, {"reflection": "hmm"}, ("reflection",), "expected a list"),
    ],
)
def test_bad_rules(prefixes, substrings, precedence, message):
    rule = object.__new__(ThoughtRule)  # Past the type checks, which run under pytest only.
    fields = {"prefixes": prefixes, "substrings": substrings, "precedence": precedence}
    vars(rule).update({"name": "bad"} | fields)
    with pytest.raises(ValueError, match=message):
        rule.__post_init__()


def test_split_by_hand(tokenizer):
    trace = imported(
        tokenizer,
        "dropped\n\nSo 84.\n\n\n\nWait, no.\n\n</think>\n\nout\n\nside"
        "<think>dropped\n\nAlternatively, swap.",
    )
    thoughts = split_thoughts(tokenizer, trace)
    assert [(t.thought_class, t.text) for t in thoughts] == [
        ("execution", "So 84."),
        ("reflection", "Wait, no."),
        ("transition", "Alternatively, swap."),
    ]
    assert thoughts[-1].stop == len(trace)
    for thought in thoughts:
        tokens = trace.token_ids[thought.start : thought.stop]
        assert tokenizer.decode(tokens).strip() == thought.text
        assert trace.consumed_ids[thought.boundary_step] in boundary_ids(tokenizer)


@pytest.mark.parametrize(
    "text",
    [
        "no boundary",
        "one, at the end\n\n",
        "closed.</think>\n\nWait, outside",
        "a\n\n \n\n</think>",
    ],
)
def test_no_thoughts(tokenizer, text):
    assert split_thoughts(tokenizer, imported(tokenizer, text)) == []


parts = st.lists(
    st.sampled_from(
        ["\n\n", "\r\n", "<think>", "</think>", "Wait", " 84", ".", "é🙂", "---", " ", "\t", "\n",
         " verify", "Alternatively"]
    ),
    max_size=30,
)  # fmt: skip


@given(parts)
def test_every_tokenizer_finds_what_the_text_has(spelling, parts):
    text = "".join(parts)
    token_ids = tuple(spelling.encode(text, add_special_tokens=False))
    assume(spelling.decode(token_ids) == text)  # the text begins with no space that is dropped
    trace = Trace("t", "m", "x", (1,), token_ids, text or "x", "imported")
    thoughts = split_thoughts(spelling, trace)
    in_text = split_text(text)
    assert [(t.thought_class, t.text) for t in thoughts] == [
        (t.thought_class, t.text) for t in in_text
    ]
    boundaries = boundary_steps(spelling, token_ids)
    for thought, part in zip(thoughts, in_text, strict=True):
        assert text[part.start : part.stop].strip() == part.text
        assert thought.start - 1 in boundaries
        assert thought.start < thought.stop
    assert all(a.stop <= b.start for a, b in pairwise(thoughts))


@given(parts)
def test_tokens_that_a_tokenizer_would_join(tokenizer, parts):
    """A model may write "\\n" twice where its tokenizer writes "\\n\\n"."""
    ids = [i for part in parts for i in tokenizer.encode(part, add_special_tokens=False)]
    trace = Trace("t", "m", "x", (1,), tuple(ids), tokenizer.decode(ids) or "x", "imported")
    thoughts = split_thoughts(tokenizer, trace)
    assert [t.text for t in thoughts] == [t.text for t in split_text("".join(parts))]
    for thought in thoughts:
        assert thought.thought_class == classify(thought.text)
        assert completes_blank_line(tokenizer, ids, thought.start - 1)


@pytest.mark.parametrize(
    ("text", "thoughts"),
    [
        ("a\n\nb\r\n\r\nc\n \t\nd", ["b", "c", "d"]),
        ("a\nb\n\n\nc", ["c"]),
        ("a\n\nb</think>c\n\nd<think>e\n\nf", ["b", "f"]),
        ("a\n</think>\nb<think>\n\n---\n\nc", ["---", "c"]),
        ("", []),
    ],
)
def test_text_by_hand(text, thoughts):
    assert [t.text for t in split_text(text)] == thoughts


@pytest.mark.parametrize("name", FAMILIES)
def test_thoughts_of_every_kind_of_block(name):
    family = FAMILIES[name]
    tokenizer = tokenizer_of(family)
    trace = imported(tokenizer, family.text)
    assert trace.text == family.text
    thoughts = split_thoughts(tokenizer, trace)
    expected = [("reflection", "Wait, 12."), ("execution", "So 12.")]
    assert [(t.thought_class, t.text) for t in thoughts][-2:] == expected
    # Sky's models write a blank line behind the mark: before it nothing is inside.
    assert [t.text for t in thoughts[:-2]] == (["Okay."] if name == "sky" else [])
    assert [t.text for t in split_text(family.text)] == [t.text for t in thoughts]
    again = imported(None, family.text).tokenized(tokenizer)
    assert again == trace


@pytest.mark.parametrize("name", FAMILIES)
@given(data=st.data(), style=st.sampled_from(["chat", "raw"]))
def test_text_and_tokens_agree_for_every_kind(name, data, style):
    family = FAMILIES[name]
    tokenizer, kind = tokenizer_of(family), THINK_KINDS[family.kind]
    marks = [*kind.texts, *kind.others, "</think>", "[/THINK]"]
    parts = data.draw(st.lists(st.sampled_from([*marks, "\n\n", "Wait", " 84", "é", " "])))
    text = "".join(["So", *parts])
    trace = imported(tokenizer, text, style=style)
    thoughts = split_thoughts(tokenizer, trace)
    opened = opened_by(tokenizer, trace.prompt_ids)
    in_text = split_text(trace.text, kind=kind.name, opened=opened)
    assert [(t.thought_class, t.text) for t in thoughts] == [
        (t.thought_class, t.text) for t in in_text
    ]
    row = Row(tokenizer, trace.prompt_ids, 0, len(trace), list(trace.token_ids))
    for thought in thoughts:  # A running generation steers where thoughts begin.
        assert row.at_boundary(thought.start)
        assert row.thinking(thought.start)


def test_thoughts_where_thinking_is_switched_off():
    family = FAMILIES["qwen3"]
    tokenizer = tokenizer_of(family)
    off = imported(tokenizer, "It is\n\nWait, no.\n\n5.", style="chat-no-thinking")
    assert split_thoughts(tokenizer, off) == []
    assert split_text(off.text, opened=False) == []
    assert len(split_text(off.text)) == 2  # the text alone does not tell
    none = new_tokenizer(family)
    use_think_kind(none, "none")
    assert len(split_thoughts(none, off)) == 2
    with pytest.raises(ValueError, match="think='thinks': expected 'auto' or one of"):
        split_text("a", kind="thinks")


def test_a_text_s_thoughts_show_where_they_are():
    (thought,) = split_text("So\n\n Wait, no.\n")
    assert repr(thought) == "TextThought(reflection, characters 4 to 14: 'Wait, no.')"


def test_the_tokens_of_another_tokenizer_are_refused(spellings):
    text = "a\n\nb\n\nWait"
    for own, other in (("whole", "gemma"), ("gpt-2", "llama-2"), ("llama-2", "gpt-2")):
        trace = imported(spellings[own], text, style="raw")
        assert len(split_thoughts(spellings[own], trace)) == 2
        with pytest.raises(ValueError, match=r"blank lines, and its tokens have .*\(\w+\)"):
            split_thoughts(spellings[other], trace)
    with pytest.raises(ValueError, match="text alone"):
        split_thoughts(spellings["whole"], Trace.from_text(None, PROBLEM, text))


def test_a_tokenizer_without_line_ends_is_refused():
    plain = bare({"So": 0, "?": 1})
    trace = Trace("t", "m", "x", (1,), (0,), "So", "imported")
    with pytest.raises(ValueError, match=r"no token of this tokenizer \(\w+\) writes a line end"):
        split_thoughts(plain, trace)


@pytest.mark.parametrize("path", ["aime25_QwQ-32B", "cvenhoff_deepseek-r1-distill-qwen-1.5b"])
def test_real_texts(shared_data, spellings, path):
    lines = (shared_data / "traces" / f"{path}.jsonl").read_text(encoding="utf-8").splitlines()
    for row in map(json.loads, lines[:8]):
        text = row["response"]
        expected = [(t.thought_class, t.text) for t in split_text(text)]
        assert len(expected) > 1
        for spelling in spellings.values():
            trace = imported(spelling, text, style="raw")
            found = split_thoughts(spelling, trace)
            assert [(t.thought_class, t.text) for t in found] == expected


def test_the_state_at_a_boundary(tiny_model, tokenizer):
    """Row b + 1 of capture is the residual at the position of generated boundary token b."""
    trace = imported(tokenizer, "First.\n\nSo 84.\n\nWait, no.")
    name = "blocks.1.hook_resid_post"
    (states,) = capture(tiny_model, [trace], [name])
    tokens = torch.tensor([[*trace.prompt_ids, *trace.token_ids]])
    _, cache = tiny_model.run_with_cache(tokens, names_filter=name)
    thoughts = split_thoughts(tokenizer, trace)
    boundaries = [b for b, i in enumerate(trace.token_ids) if i in boundary_ids(tokenizer)]
    assert [t.boundary_step for t in thoughts] == [b + 1 for b in boundaries]
    for b, thought in zip(boundaries, thoughts, strict=True):
        position = len(trace.prompt_ids) + b
        assert int(tokens[0, position]) in boundary_ids(tokenizer)
        torch.testing.assert_close(states[name][thought.boundary_step], cache[name][0, position])


def test_the_state_as_a_hook_sees_it_while_decoding(pocket):
    """Where a hook in the decode loop sees the boundary read, SEAL's state is the one it sees."""
    name = "blocks.2.hook_resid_post"
    problem = load_problems("pocket", split="train", limit=1)[0]
    seen = []
    with pocket.hooks(fwd_hooks=[(name, lambda state, hook: seen.append(state[0, -1].clone()))]):
        (trace,) = generate(pocket, [problem], progress=False)
    (states,) = capture(pocket, [trace], [name])
    thoughts = split_thoughts(pocket.tokenizer, trace)
    assert len(thoughts) >= 2
    boundaries = boundary_ids(pocket.tokenizer)
    for thought in thoughts:
        step = thought.boundary_step
        assert trace.token_ids[step - 1] in boundaries  # Read in the decode loop's pass `step`,
        assert trace.token_ids[step] == trace.token_ids[thought.start]  # which emits this.
        torch.testing.assert_close(states[name][step], seen[step], rtol=1e-4, atol=1e-3)
        assert (states[name][step] - seen[step - 1]).abs().max() > 0.1


@pytest.mark.parametrize(
    ("name", "seal", "easysteer"),
    [
        ("aime25_DeepSeek-R1-Distill-Qwen-1.5B", (4092, 1142, 175), (3949, 1249, 211)),
        ("cvenhoff_deepseek-r1-distill-llama-8b", (399, 108, 49), (373, 116, 67)),
    ],
)
def test_real_traces(shared_data, tokenizer, name, seal, easysteer):
    path = shared_data / "traces" / f"{name}.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    traces = [
        imported(tokenizer, row["response"], Problem(row["id"], row["question"], row["gold"] or ""))
        for row in rows
    ]
    for rule, expected in ((SEAL, seal), (EASYSTEER, easysteer)):
        everything, *groups = thought_statistics(tokenizer, traces, rule)
        classes = everything.classes
        assert tuple(counts.thoughts for counts in classes.values()) == expected
        assert everything.traces == len(rows)
    # The same number, from the text alone: paragraphs of the think block but the first.
    blocks = [row["response"].split("</think>")[0] for row in rows]
    paragraphs = [p for block in blocks for p in re.split(r"\n{2,}", block)[1:] if p.strip()]
    assert len(paragraphs) == sum(seal) == sum(easysteer)
    if rows[0]["gold"]:
        right = sum(row["is_correct"] for row in rows)
        assert [(g.correct, g.traces) for g in groups] == [
            (True, right),
            (False, len(rows) - right),
        ]
    else:
        assert groups == []


def test_statistics_by_hand(tokenizer):
    hard = Problem("q", "What is 12 * 8?", "96", level="hard")
    unknown = Problem("r", "What?", "")
    traces = [
        imported(tokenizer, "a\n\nb c\n\nWait</think>\\boxed{84}"),
        imported(tokenizer, "a\n\nd</think>\\boxed{83}"),
        imported(tokenizer, "a\n\nAlternatively</think>\\boxed{96}", hard),
        imported(tokenizer, "a", unknown),
    ]
    groups = {(g.correct, g.level): g for g in thought_statistics(tokenizer, traces)}
    assert list(groups) == [
        (None, None),
        (True, None),
        (False, None),
        (None, "easy"),
        (True, "easy"),
        (False, "easy"),
        (None, "hard"),
        (True, "hard"),
    ]
    counts = {
        key: tuple(c.thoughts for c in group.classes.values()) for key, group in groups.items()
    }
    assert counts[None, None] == (2, 1, 1)
    assert counts[True, None] == (1, 1, 1)
    assert counts[False, None] == counts[False, "easy"] == (1, 0, 0)
    assert counts[None, "easy"] == (2, 1, 0)
    execution = groups[None, None].classes["execution"]
    assert groups[None, None].traces == 4
    assert execution.tokens is not None
    assert execution.tokens == len(tokenizer.encode("b c")) + len(tokenizer.encode("d"))
    assert execution.thoughts_per_trace.mean == 0.5
    assert execution.tokens_per_trace.mean == execution.tokens / 4
    low, high = execution.thoughts_per_trace.low, execution.thoughts_per_trace.high
    assert low is not None
    assert high is not None
    assert 0 <= low < 0.5 < high <= 1
    assert groups[None, None].share("execution") == 0.5
    assert thought_statistics(tokenizer, traces[3:])[0].share("execution") is None
    assert thought_statistics(tokenizer, []) == []


def test_statistics_of_text_alone(tokenizer):
    texts = ["a\n\nb c\n\nWait</think>\\boxed{84}", "a\n\nd</think>\\boxed{83}", "a\n\ne</think>?"]
    labels = (False, True, None)
    alone = [
        Trace.from_text(None, PROBLEM, text, is_correct=label)
        for text, label in zip(texts, labels, strict=True)
    ]
    for group, same in zip(
        thought_statistics(None, alone),
        thought_statistics(tokenizer, [trace.tokenized(tokenizer) for trace in alone]),
        strict=True,
    ):
        assert (group.correct, group.traces) == (same.correct, same.traces)
        for name, counts in group.classes.items():
            assert (counts.tokens, counts.tokens_per_trace.mean) == (None, None)
            assert counts.thoughts_per_trace == same.classes[name].thoughts_per_trace
        assert "–" in group._repr_html_()
    by_author = thought_statistics(None, alone, labels="author")
    assert [(g.correct, g.traces) for g in by_author[:3]] == [(None, 3), (True, 1), (False, 1)]
    assert by_author[2].classes["reflection"].thoughts == 1
    with pytest.raises(ValueError, match="text alone"):
        thought_statistics(tokenizer, alone)
