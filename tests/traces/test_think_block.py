import pytest
from hypothesis import given
from hypothesis import strategies as st

from mi_lens.traces.think_block import (
    boundary_ids,
    boundary_steps,
    closing_ids,
    completes_blank_line,
    require_lines,
    writes_lines,
)
from mi_lens.traces.vocabulary import token_strings, vocabulary
from tests.traces.conftest import bare


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
