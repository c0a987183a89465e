from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mi_lens.evaluation.thought_contrast import contrast_outcomes, contrast_thoughts
from mi_lens.runs.config import ImportConfig
from mi_lens.runs.import_text import read_texts
from mi_lens.traces.thoughts import THOUGHT_CLASSES, split_text
from mi_lens.traces.trace import StopReason, Trace


def trace(question, thoughts, stop_reason: StopReason = "eos", seed=0):
    text = "\n\n".join(["Start", *thoughts]) + "</think>"
    return Trace.from_text(None, question, text, stop_reason=stop_reason, seed=seed)


def test_thoughts_are_compared_within_problems():
    first = [trace("a", ["Wait", "Wait", "x"]), trace("b", ["x"])]
    second = [trace("a", ["Wait"]), trace("a", ["x"], seed=1), trace("c", ["Wait"] * 9)]
    found = contrast_thoughts(first, second, draws=9)
    assert found.traces == (2, 3)
    assert (found.pairing.problems, found.pairing.left_out) == ((1, 1), (1, 1))
    reflection = found.classes["reflection"]
    assert (reflection.first.mean, reflection.second.mean) == (2, 0.5)
    assert found.classes["execution"].difference.mean == 0.5


def test_outcomes_are_compared_apart_where_traces_were_cut_off():
    traces = [
        trace("a", ["Wait"]),
        trace("a", ["Wait"] * 3, seed=1),
        trace("a", ["Wait"] * 20, "length"),
        trace("b", ["x"], "imported"),
        trace("b", ["Wait"] * 2, "imported", seed=1),
        trace("b", ["Wait"] * 99, "imported", seed=2),
    ]
    right = [True, False, False, True, False, None]
    parts = contrast_outcomes(traces, right, draws=9)
    assert list(parts) == ["all", "not cut off"]  # nothing that was cut off is right
    assert parts["all"].traces == (2, 3)
    finished = parts["not cut off"]
    assert finished.traces == (2, 2)
    assert finished.pairing.paired_by == "problem and model"
    assert finished.classes["reflection"].difference.mean == -2
    assert parts["all"].classes["reflection"].difference.mean == pytest.approx(
        (1 - 11.5 + 0 - 2) / 2
    )
    assert contrast_outcomes(traces, [True] * 6) == {}
    with pytest.raises(ValueError, match="shorter"):
        contrast_outcomes(traces, [True])


def test_right_and_wrong_traces_of_a_real_model(shared_data):
    file = shared_data / "traces" / "aime25_DeepSeek-R1-Distill-Qwen-1.5B.jsonl"
    traces = read_texts(ImportConfig(file=file, out=Path("unused")))
    parts = contrast_outcomes(traces, [t.is_correct for t in traces], draws=999)
    assert parts["all"] == parts["not cut off"]
    found = parts["all"]
    assert found.traces == (4, 9)
    assert found.pairing.paired_by is None  # one trace per problem is right or wrong
    for name in THOUGHT_CLASSES:
        means = [
            np.mean(
                [
                    Counter(t.thought_class for t in split_text(trace.text))[name]
                    for trace in traces
                    if trace.is_correct is side
                ]
            )
            for side in (True, False)
        ]
        compared = found.classes[name]
        assert [compared.first.mean, compared.second.mean] == pytest.approx(means)
    assert found.classes["reflection"].difference.high is not None
    assert found.classes["reflection"].difference.high < 0
