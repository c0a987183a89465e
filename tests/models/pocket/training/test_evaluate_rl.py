"""What the cards of pocket-rl measure, seen on the pocket reasoner, which needs its checks."""

from pathlib import Path

import pytest

from mi_lens.models.pocket import CHECKPOINTS
from mi_lens.models.pocket.training.behaviour import REFLECTS
from mi_lens.models.pocket.training.evaluate_rl import ComparisonConfig, HeldOut


@pytest.fixture(scope="module")
def held_out() -> HeldOut:
    config = ComparisonConfig(base=Path(), reinforced=Path(), problems=24)
    return HeldOut(CHECKPOINTS["pocket-reasoner"], config)


def test_a_trace_is_cut_before_its_first_reflection(held_out: HeldOut) -> None:
    samples = held_out.continue_all(held_out.prompts, temperature=0.0)
    conducts = held_out.read(held_out.exercises, samples)
    cut = 0
    for conduct, drawn in zip(conducts, samples, strict=True):
        if not conduct.reflects:
            continue
        before = held_out.before_reflection(conduct, drawn.ids)
        text = str(held_out.tokenizer.decode(before))
        assert conduct.text.startswith(text)
        assert REFLECTS.search(conduct.text[len(text) :].split("\n\n")[0])
        assert not REFLECTS.search(text)
        cut += 1
    assert cut > 10


def test_a_banned_word_is_not_written_while_thinking(held_out: HeldOut) -> None:
    samples = held_out.continue_all(held_out.prompts[:12], temperature=1.0, ban=True)
    conducts = held_out.read(held_out.exercises[:12], samples)
    assert not any(conduct.reflects for conduct in conducts)
    assert any(conduct.first_value is not None for conduct in conducts)


def test_where_the_value_was_wrong_removing_its_check_costs_the_answer(
    held_out: HeldOut,
) -> None:
    numbers, conducts = held_out.measure(temperature=0.0)
    removed = numbers["cut_before_reflection"]
    wrong = [c for c in conducts if c.reflects and c.first_value is not None and not c.value_right]
    assert removed["value_wrong"]["traces"] == len(wrong)
    assert removed["value_wrong"]["difference"]["mean"] > 0.5
    assert removed["value_wrong"]["tokens_saved"] > 0
    assert numbers["reflection_banned"]["difference"]["mean"] > 0.3
    assert numbers["accuracy"]["all"]["n"] == 24
