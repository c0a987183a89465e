import pytest
from hypothesis import given
from hypothesis import strategies as st

from mi_lens.interventions.row import Row
from mi_lens.problems.prompts import PromptStyle, encode_prompt
from mi_lens.problems.think_kinds import THINK_KINDS, use_think_kind
from mi_lens.traces.think_block import (
    boundary_ids,
    boundary_steps,
    closing_ids,
    completes_blank_line,
    opened_by,
    pieces,
    require_lines,
    thinking_end,
    writes_lines,
    written_text,
)
from mi_lens.traces.vocabulary import token_strings, vocabulary
from tests.think_blocks import FAMILIES, PLAIN, new_tokenizer, tokenizer_of
from tests.traces.conftest import bare

families = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


def test_boundaries_and_think_tokens(tokenizer):
    strings = vocabulary(tokenizer)
    assert {strings[i] for i in boundary_ids(tokenizer)} == {"\n\n"}
    assert all(("\n\n" in s) == (i in boundary_ids(tokenizer)) for i, s in enumerate(strings))
    assert closing_ids(tokenizer) == {tokenizer.encode("</think>")[0]}


def test_tokenizer_without_them():
    plain = bare({"So": 0, "\n": 1, "?": 2})
    assert closing_ids(plain) == set()
    with pytest.raises(ValueError, match=r"no token of this tokenizer \(\w+\) holds a whole"):
        boundary_ids(plain)
    assert boundary_steps(plain, [0, 1, 1, 0]) == [2]
    require_lines(plain)
    lineless = bare({"So": 0, "?": 1})
    assert not writes_lines(lineless)
    with pytest.raises(ValueError, match=r"no token of this tokenizer \(\w+\) writes a line end"):
        require_lines(lineless)


@pytest.mark.parametrize(
    ("name", "text", "last"),
    [
        ("whole", "So it is 84.\n\n", ".\n\n"),
        ("whole", "(a)\n\n", ")\n\n"),
        ("gpt-2", "a\n\nWait", "\n"),
        ("llama-2", "a\n\nb", "\n"),
        ("gemma", "a\n\nb", "\n\n"),
        ("gemma", "a\n \nb", "\n"),
        ("whole", "a\r\n\r\nb", "\n"),
    ],
)
def test_the_token_that_completes_a_blank_line(spellings, name, text, last):
    tokenizer = spellings[name]
    ids = tokenizer.encode(text, add_special_tokens=False)
    (step,) = boundary_steps(tokenizer, ids)
    assert token_strings(tokenizer)[ids[step]] == last


@given(
    st.lists(
        st.sampled_from(["\n\n", "\n", "\r\n", " ", "\t", "a", ".\n", "</think>"]), max_size=20
    )
)
def test_step_by_step_as_in_the_whole(spelling, parts):
    """A running generation, which looks back only, finds the same boundaries."""
    ids = [i for part in parts for i in spelling.encode(part, add_special_tokens=False)]
    seen = [place for place in range(len(ids)) if completes_blank_line(spelling, ids, place)]
    assert seen == boundary_steps(spelling, ids)


def prompt_of(family, style: PromptStyle = "chat"):
    return encode_prompt(tokenizer_of(family), "What is 3 * 4?", style)[1]


@families
def test_the_prompt_says_whether_the_block_is_open(family):
    assert opened_by(tokenizer_of(family), prompt_of(family)) is family.opened
    # Nobody knows of a bare question.
    assert opened_by(tokenizer_of(family), prompt_of(family, "raw")) is True


def test_prompts_by_hand():
    qwen, plain = FAMILIES["qwen3"], tokenizer_of(PLAIN)
    assert opened_by(tokenizer_of(qwen), prompt_of(qwen, "chat-no-thinking")) is False
    assert opened_by(tokenizer_of(qwen), prompt_of(qwen, "chat-thinking")) is False
    assert opened_by(plain, prompt_of(PLAIN)) is True  # no marks: all of it counts
    asked = encode_prompt(tokenizer_of(qwen), "What does <think> mean?")[1]
    assert opened_by(tokenizer_of(qwen), asked) is False  # it stands in the question
    by_hand = tokenizer_of(qwen).encode("2 + 2? Draft: <think>")
    assert opened_by(tokenizer_of(qwen), by_hand) is True
    nothing = new_tokenizer(FAMILIES["gpt-oss"])
    use_think_kind(nothing, "none")
    assert opened_by(nothing, prompt_of(FAMILIES["gpt-oss"])) is True


@families
def test_marks_stay_in_the_text_and_other_special_tokens_do_not(family):
    tokenizer = tokenizer_of(family)
    ids = tokenizer.encode(f"{family.text}{family.end}", add_special_tokens=False)
    assert written_text(tokenizer, ids) == family.text
    assert "".join(pieces(tokenizer, ids)) == family.text
    if family.kind in ("think", "open-thoughts"):  # whose marks are ordinary text: as ever
        assert written_text(tokenizer, ids) == tokenizer.decode(ids, skip_special_tokens=True)


def marked_text(kind):
    """Texts of a kind's marks, whole and in parts, and of other things."""
    marks = [text for text in (*kind.texts, *kind.others) if text]
    parts = [text[:place] for text in marks for place in (1, len(text) // 2, len(text))]
    rest = [text[len(text) // 2 :] for text in marks]
    return st.lists(st.sampled_from([*parts, *rest, "\n\n", "So", ".", " ", "\n"]), max_size=25)


def inside(kind, text, opened):
    """Whether the block is open behind a text, by the last mark in it."""
    opening = text.rfind(kind.opening)
    closing = max(text.rfind(mark) for mark in kind.closings)
    return opened if opening == closing == -1 else opening >= closing


@families
@given(data=st.data(), style=st.sampled_from(["chat", "raw"]), apart=st.booleans())
def test_a_running_generation_sees_what_the_text_says(family, data, style, apart):
    """However the marks are cut into tokens, and in whatever order the row is asked."""
    tokenizer, kind = tokenizer_of(family), THINK_KINDS[family.kind]
    parts = data.draw(marked_text(kind))
    texts = parts if apart else ["".join(parts)]
    ids = [i for text in texts for i in tokenizer.encode(text, add_special_tokens=False)]
    row = Row(tokenizer, prompt_of(family, style), 0, 999, ids)
    opened = opened_by(tokenizer, row.prompt_ids)
    for count in data.draw(st.permutations(range(len(ids) + 1))):
        written = "".join(pieces(tokenizer, ids[:count]))
        assert row.thinking(count) is inside(kind, written, opened)


def test_a_row_put_back_forgets_what_it_wrote():
    family = FAMILIES["r1"]
    tokenizer = tokenizer_of(family)
    end, so = (tokenizer.encode(text)[0] for text in ("</think>", "So"))
    row = Row(tokenizer, prompt_of(family), 0, 9, [so, end, so])
    assert [row.thinking(count) for count in (3, 2, 1, 0)] == [False, False, True, True]
    row.cut(1)
    row.token_ids += [so, so]
    assert row.thinking()


def test_without_a_block_all_counts():
    tokenizer = new_tokenizer(FAMILIES["r1"])
    use_think_kind(tokenizer, "none")
    ids = tokenizer.encode("a</think>b<think>c</think>")
    row = Row(tokenizer, prompt_of(FAMILIES["qwen3"], "chat-no-thinking"), 0, 99, ids)
    assert all(row.thinking(count) for count in range(len(ids) + 1))
    assert closing_ids(tokenizer) == set()


@families
def test_thinking_ends_where_its_block_is_first_closed(family):
    tokenizer = tokenizer_of(family)
    closing, opening = THINK_KINDS[family.kind].closings, THINK_KINDS[family.kind].opening
    if not closing:
        return
    for text in ("Okay.\n", "So\n\nit is 8."):
        whole = f"{opening}{text}{closing[-1]}\n\n8{closing[-1]}"
        ids = tokenizer.encode(whole, add_special_tokens=False)
        end = thinking_end(tokenizer, [], ids)
        assert written_text(tokenizer, ids[:end]) == f"{opening}{text}".rstrip()
    unclosed = tokenizer.encode(f"{opening}So\n\n", add_special_tokens=False)
    assert written_text(tokenizer, unclosed[: thinking_end(tokenizer, [], unclosed)]).endswith("So")
    assert thinking_end(tokenizer, [], []) == 0
