"""The rule of the studies' labels, and the labels of the records that were drawn."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mi_lens
from experiments.labels import LABELS, ClaimTest, Premise, exactly, label, label_of_record
from experiments.steering import steering_tests
from experiments.study import Study, plain, settled_by_texts
from experiments.thought_statistics import harder_is_harder
from experiments.trained_length import within_trained_length
from mi_lens.common.statistics import Estimate

ROOT = Path(__file__).parents[1]
RECORDS = sorted((ROOT / "figures").rglob("*.json"))


def claim(low: float | None, high: float | None, margin: float = 1.0) -> ClaimTest:
    """A test with an interval and a margin."""
    mean = None if low is None or high is None else (low + high) / 2
    return ClaimTest("gain", Estimate(mean, low, high, 9), margin, "points")


@pytest.mark.parametrize(
    ("tests", "expected"),
    [
        ([claim(0.1, 2.0)], "with"),
        ([claim(0.1, 2.0), claim(-0.1, 2.0)], "open"),
        ([claim(-0.2, 0.9)], "against"),
        ([claim(-2.0, -1.0)], "against"),
        ([claim(0.5, 2.0), claim(-0.2, 0.9)], "against"),
        # Not significant, and an effect that would matter is not excluded.
        ([claim(-3.9, 1.1)], "open"),
        ([claim(None, None)], "open"),
        # Units that are all alike, of which a bootstrap has no width.
        ([claim(0.0, 0.0)], "open"),
        ([claim(2.0, 2.0)], "open"),
        # An effect that is there and too small to matter.
        ([claim(0.1, 0.9)], "open"),
        # Zero is the margin where the effect is measured from what is claimed.
        ([claim(-0.2, 0.1, 0.0)], "open"),
        ([claim(-0.2, -0.1, 0.0)], "against"),
    ],
)
def test_tests_decide_by_interval_and_margin(tests: list[ClaimTest], expected: str):
    assert label([], tests) == expected


def test_the_first_premise_that_fails_gives_the_label():
    tests = [claim(0.1, 2.0)]
    held = Premise("Held.", "premise not met", exactly(2.0), 2.0)
    failed = Premise("Failed.", "premise not met", Estimate(1.0, 0.5, 1.9, 9), 2.0)
    unknown = Premise("Unknown.", "premise not met", Estimate(1.0, 0.5, 2.1, 9), 2.0)
    made = Premise("Made so.", "by construction")
    assert label([held], tests) == "with"
    assert label([held, failed, made], tests) == "premise not met"
    assert label([unknown, made, failed], tests) == "by construction"
    assert label([held, unknown], tests) == "open"
    assert label([failed], ()) == "premise not met"
    assert label([failed], tests, asked=False) == "not asked"


def test_a_claim_without_tests_has_no_label():
    with pytest.raises(ValueError, match="no test of a claim"):
        label([], [])


def test_a_margin_is_not_negative():
    with pytest.raises(ValueError, match=r"margin=-1\.0 of 'gain': expected 0 or more"):
        claim(0.1, 0.2, -1.0)


def test_a_label_is_computed_again_from_json():
    premise = Premise("Held.", "premise not met", exactly(2.0), 2.0)
    record = {"premises": [premise], "tests": [claim(-0.2, 0.9)], "asked": True}
    assert label_of_record(json.loads(json.dumps(plain(record)))) == "against"
    record["premises"] = [Premise("Made so.", "by construction")]
    assert label_of_record(json.loads(json.dumps(plain(record)))) == "by construction"


def test_only_texts_that_place_reflections_settle_a_claim():
    assert [premise.holds for premise in settled_by_texts(Study(), "So.")] == [False]
    for model in ("gpt2", "pocket-rl"):
        assert settled_by_texts(Study(model=model), "So.") == ()
    assert settled_by_texts(Study(problems="gsm8k"), "So.") == ()


def test_a_budget_beyond_the_longest_text_is_no_test_of_going_on():
    tokenizer = mi_lens.load("pocket-reasoner").tokenizer
    (short,) = within_trained_length(Study(), 300, tokenizer)
    (long,) = within_trained_length(Study(), 768, tokenizer)
    assert (short.holds, long.holds) == (True, False)
    assert "the budget is 768 tokens" in long.text
    assert within_trained_length(Study(model="gpt2"), 768, tokenizer) == ()


def test_hard_problems_must_be_the_harder_ones():
    level = np.array(["easy"] * 200 + ["hard"] * 200)
    right = np.arange(400) % 10 > 0  # Nine in ten of both.
    assert [p.holds for p in harder_is_harder(right, level, ("easy", "hard"))] == [None]
    right[:100] = False
    (premise,) = harder_is_harder(right, level, ("easy", "hard"))
    assert premise.holds is False
    assert label([premise], ()) == "premise not met"
    assert [p.holds for p in harder_is_harder(right, level, ("hard", "easy"))] == [True]
    assert harder_is_harder(right, level, ("easy",)) == ()


@pytest.mark.parametrize(("gain", "expected"), [(0.1, "with"), (0.0, "against"), (0.03, "open")])
def test_steering_must_gain_and_save(gain: float, expected: str):
    accuracy = {"without": Estimate(gain, gain - 0.04, gain + 0.04, 9)}
    tokens = {"without": Estimate(-40.0, -50.0, -30.0, 9)}
    assert label([], steering_tests(accuracy, tokens, 200.0)) == expected


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_label_of_a_record_follows_from_its_premises_and_tests(path: Path):
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if "tests" not in record:
        pytest.skip("no study, or drawn by an earlier version")
    assert record["label"] in LABELS
    assert label_of_record(record) == record["label"]
    assert (record["label"] == "not a reasoner") == ("smollm2" in path.parts)
