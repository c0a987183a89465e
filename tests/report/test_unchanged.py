"""What an intervention left as it was."""

import pytest

from mi_lens.report.loading import read_runs
from mi_lens.report.unchanged import first_difference, side_by_side, unchanged_problems
from mi_lens.traces.trace import Trace


@pytest.mark.parametrize(
    ("a", "b", "step"),
    [((1, 2), (1, 2), None), ((1, 2), (1, 3), 1), ((1, 2), (1, 2, 3), 2), ((), (), None)],
)
def test_first_difference(a, b, step):
    assert first_difference(a, b) == first_difference(b, a) == step
    assert first_difference(list(a), b) == step


def test_unchanged_problems(build_evaluation, tmp_path):
    texts = {"base": ["so", "Wait", "so so"], "quiet": ["so", "the", "so so"], "idle": ["so"] * 3}
    traces = build_evaluation(tmp_path / "run", texts)
    (run,) = read_runs([tmp_path / "run"])
    assert run.evaluation is not None
    keys = [(t.problem.source, t.problem.id) for t in traces[:3]]
    same = unchanged_problems(run.evaluation, run.traces)
    assert same == {"quiet": {keys[0], keys[2]}, "idle": {keys[0]}}
    # A trace that is not there is not known to be the same.
    missing = [trace for trace in run.traces if trace.id != traces[5].id]
    assert unchanged_problems(run.evaluation, missing)["quiet"] == {keys[0]}


def test_traces_of_one_prompt_and_seed_are_paired():
    def trace(id_, prompt, tokens, seed=0):
        return Trace(id_, "m", prompt, (1,), tokens, "", "eos", seed)

    traces = [
        trace("a", "x", (1, 2, 3)),
        trace("b", "y", (1, 2, 3)),
        trace("c", "x", (1, 5, 3)),
        trace("d", "x", (1, 2, 3), seed=1),
        trace("a", "x", (1, 2, 3)),  # of a run that is on the page twice
        trace("e", "x", (1, 2, 3)),
    ]
    (pair,) = side_by_side(traces)
    assert pair["traces"] == [0, 2, 5]
    assert pair["differ"] == [[None, 1, None], [1, None, 1], [None, 1, None]]
