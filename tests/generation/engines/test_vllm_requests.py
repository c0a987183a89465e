import pytest

from mi_lens.generation.engines.vllm_requests import _take
from mi_lens.generation.jobs import Job
from mi_lens.interventions.row import Row
from mi_lens.interventions.sampling import Sampling


def job_of(count):
    row = Row(None, (1, 2, 3), 0, 10, list(range(count)))
    return Job(0, row, Sampling(), (), (), 100)


def steer(step, last, at="a"):
    return {"step": step, "what": "steer", "hook_name": at, "last": last}


def test_events_of_what_a_stop_text_cut_off_are_left_out():
    job = job_of(4)
    recycle = {"step": 4, "what": "recycle", "layer": 1, "consumed": 7}
    _take(job, [["", [steer(-2, 0), steer(2, 4), recycle]]])
    assert job.row.events == [steer(-2, 0), steer(2, 3)]


def test_stages_of_a_pipeline_note_in_the_order_of_their_blocks():
    job = job_of(6)
    first = [steer(-2, -1), steer(0, 0), steer(4, 4)]
    second = [steer(-2, 1, "b"), {"step": 0, "what": "logits", "wanted": 1, "emitted": 2}]
    last = [{"step": 4, "what": "logits", "wanted": 1, "emitted": 2}]
    _take(job, [["", first], ["", [*second, *last]]])
    assert job.row.events == [*first[:2], *second, first[2], *last]


def test_a_failure_of_any_worker_is_raised():
    with pytest.raises(ValueError, match="the logits at step 3"):
        _take(job_of(1), [["", []], ["request 0: the logits at step 3 hold nan", []]])


def test_a_worker_that_never_saw_a_request_notes_nothing():
    job = job_of(1)
    _take(job, [None])
    assert job.row.events == []
