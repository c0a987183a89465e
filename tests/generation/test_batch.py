from types import SimpleNamespace
from typing import Any

import torch

from mi_lens.generation.batch import Batch
from mi_lens.generation.jobs import Job, View
from mi_lens.interventions.protocol import Action
from mi_lens.interventions.row import Row
from mi_lens.interventions.sampling import Sampling
from mi_lens.models.backends.lookup import available, get_backend
from mi_lens.models.padding import left_pad

# Of a model, a batch asks only where the context ends.
NO_MODEL: Any = SimpleNamespace(cfg=None, tokenizer=None, hooks=list, state_dict=dict)


class Add(Action):
    """Adds a number to its rows."""

    def __init__(self, number):
        self.number = number

    def logits(self, logits, rows):
        return logits + self.number


def jobs(*actions):
    return [
        Job(i, Row(None, (1,), 0, 9), Sampling(), acts, (), 99) for i, acts in enumerate(actions)
    ]


def batch_of(jobs, strands, mask, model=None, cache=None):
    backend = get_backend(available()[0])
    return Batch(model or NO_MODEL, backend, jobs, strands, mask, cache)


def started(model, prompts, strands):
    """A batch that has read its prompts."""
    backend = get_backend("hooked")
    tokens, mask = left_pad(prompts)
    batch = batch_of(jobs(*[()] * len(strands)), strands, mask, model)
    batch.cache = backend.new_cache(model, len(mask))
    backend.step(model, tokens, mask, batch.cache, 0)
    return batch


def next_logits(batch):
    """By job, logits after one more token."""
    backend = get_backend("hooked")
    mask = torch.cat([batch.mask, batch.mask.new_ones(len(batch.mask), 1)], dim=1)
    tokens = torch.full((len(mask), 1), 9)
    return backend.step(batch.model, tokens, mask, batch.cache, 1)[batch.strands, 0]


def test_actions_change_their_own_rows_in_order():
    a, b = Add(1.0), Add(10.0)
    view = View(jobs((a,), (), (b, a), (a, b)))
    seen = []

    def change(action, part, rows):
        seen.append((action, len(rows)))
        return part * 2 if action is b else part + 1

    changed = view.apply(view.acting("any", lambda action: True), change, torch.ones(4, 1))
    assert changed.flatten().tolist() == [2, 1, 3, 4]  # 2 * 1 + 1 and (1 + 1) * 2
    assert sorted(count for _, count in seen) == [1, 1, 1, 2]
    acting = view.acting("b only", lambda action: action is b)
    assert [turn.places for turn in acting] == [[2], [3]]


def test_nothing_is_done_to_a_shared_state():
    a = Add(1.0)
    waiting = jobs((a,), (a,), (a,))
    batch = batch_of(waiting, [2, 0, 2], torch.ones(3, 4, dtype=torch.long))
    states = batch.strand_view.jobs
    assert states[0] is waiting[1]
    assert [len(job.actions) for job in states] == [1, 0, 0]
    assert batch.job_view.jobs is waiting


def test_the_same_batch_goes_on_where_nothing_parts(tiny_model):
    batch = started(tiny_model, [[8, 9], [10, 11]], [0, 1, 0])
    assert batch.regrouped({0: "a", 1: "b", 2: "a"}) is batch


def test_jobs_of_a_strand_part_where_their_keys_differ(tiny_model):
    prompts = [[8, 9], [10, 11, 12]]
    together = next_logits(started(tiny_model, prompts, [0, 1, 0]))
    batch = started(tiny_model, prompts, [0, 1, 0])
    parted = batch.regrouped({0: "a", 1: "a", 2: "b"})
    assert parted.strands == [0, 1, 2]
    assert parted.jobs == batch.jobs
    torch.testing.assert_close(next_logits(parted), together, rtol=0, atol=1e-12)


def test_a_strand_without_a_job_goes_with_the_eighth(tiny_model):
    prompts = [[8, number] for number in range(9, 17)]
    batch = started(tiny_model, prompts, list(range(8)))
    idle = batch.regrouped(dict.fromkeys(range(1, 8)))
    assert (idle.strands, len(idle.mask)) == (list(range(1, 8)), 8)
    smaller = idle.regrouped(dict.fromkeys(range(1, 7)))
    assert (smaller.strands, len(smaller.mask)) == (list(range(6)), 6)
    assert [job.index for job in smaller.jobs] == list(range(2, 8))


def test_padding_of_a_row_that_left_goes_with_it(tiny_model):
    alone = next_logits(started(tiny_model, [[8, 9]], [0]))
    batch = started(tiny_model, [[8, 9], [10, 11, 12, 13]], [0, 1])
    left = batch.regrouped({0: None})
    assert left.mask.tolist() == [[1, 1]]
    torch.testing.assert_close(next_logits(left), alone, rtol=0, atol=1e-12)


def test_joined_batches_read_as_each_did(tiny_model):
    long, short = [[8, 9, 10, 11]], [[12, 13], [14]]
    apart = [
        next_logits(started(tiny_model, prompts, strands))
        for prompts, strands in ((short, [1, 0, 1]), (long, [0]))
    ]
    joined = started(tiny_model, short, [1, 0, 1]).joined(started(tiny_model, long, [0]))
    assert joined.strands == [1, 0, 1, 2]
    assert joined.mask.sum(1).tolist() == [2, 1, 4]
    torch.testing.assert_close(next_logits(joined), torch.cat(apart), rtol=0, atol=1e-12)


def test_left_pad():
    tokens, mask = left_pad([[5, 6], [7], [8, 9, 10]])
    assert tokens.tolist() == [[0, 5, 6], [0, 0, 7], [8, 9, 10]]
    assert mask.tolist() == [[0, 1, 1], [0, 0, 1], [1, 1, 1]]


def test_newcomers_take_idle_rows(tiny_model):
    prompts = [[8, number] for number in range(9, 17)]
    alone = next_logits(started(tiny_model, prompts[1:], list(range(7))))
    coming = next_logits(started(tiny_model, [[20, 21, 22]], [0, 0]))
    batch = started(tiny_model, prompts, list(range(8)))
    kept = [layer.slots[0].data_ptr() for layer in batch.cache.layers]
    batch = batch.regrouped(dict.fromkeys(range(1, 8)), spare=1)
    joined = batch.joined(started(tiny_model, [[20, 21, 22]], [0, 0]))
    assert joined.strands == [*range(1, 8), 0, 0]
    assert [layer.slots[0].data_ptr() for layer in joined.cache.layers] == kept
    torch.testing.assert_close(next_logits(joined), torch.cat([alone, coming]), rtol=0, atol=1e-12)


def test_a_parting_job_takes_an_idle_row(tiny_model):
    prompts = [[8, 9], [10, 11, 12], [13]]
    together = next_logits(started(tiny_model, prompts, [0, 1, 2, 1]))[[1, 2, 3]]
    batch = started(tiny_model, prompts, [0, 1, 2, 1])
    parted = batch.regrouped({1: "a", 2: "a", 3: "b"})
    assert parted.strands == [1, 2, 0]
    torch.testing.assert_close(next_logits(parted), together, rtol=0, atol=1e-12)
    assert parted.mask.tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 1]]


def test_idle_rows_stay_only_for_newcomers(tiny_model):
    prompts = [[8, number] for number in range(9, 17)]
    batch = started(tiny_model, prompts, list(range(8)))
    assert len(batch.regrouped(dict.fromkeys(range(3, 8)), spare=2).mask) == 8
    assert len(batch.regrouped(dict.fromkeys(range(3, 8)), spare=1).mask) == 5
