import torch

from mi_lens.generation.batch import Batch, Job, View
from mi_lens.interventions.protocol import Action, Row
from mi_lens.interventions.sampling import Sampling
from mi_lens.models.padding import left_pad


class Add(Action):
    """Adds a number to its rows."""

    def __init__(self, number):
        self.number = number

    def logits(self, logits, rows):
        return logits + self.number


def jobs(*actions):
    return [
        Job(i, Row(None, (1,), 0, 9), Sampling(), some, (), 99) for i, some in enumerate(actions)
    ]


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
    some = view.acting("b only", lambda action: action is b)
    assert [places for _, places in some] == [[2], [3]]


def test_nothing_is_done_to_a_shared_state():
    a = Add(1.0)
    some = jobs((a,), (a,), (a,))
    batch = Batch(some, [2, 0, 2], torch.ones(3, 4, dtype=torch.long), None)
    states = batch.states.jobs
    assert states[0] is some[1]
    assert [len(job.actions) for job in states] == [1, 0, 0]
    assert batch.view.jobs is some


def test_left_pad():
    tokens, mask = left_pad([[5, 6], [7], [8, 9, 10]])
    assert tokens.tolist() == [[0, 5, 6], [0, 0, 7], [8, 9, 10]]
    assert mask.tolist() == [[0, 1, 1], [0, 0, 1], [1, 1, 1]]
