import torch

from mi_lens.generation.batch import Batch, CurrentPass
from mi_lens.generation.jobs import Job
from mi_lens.generation.recycling import awaits_candidates, recycle_candidates, recycle_consumed
from mi_lens.interventions.recycle import Recycle
from mi_lens.interventions.row import Row
from mi_lens.interventions.sampling import Sampling
from mi_lens.models.backends.lookup import get_backend

WORD, OTHER = 7, 8


def batch_of(model, *interventions, strands=None):
    """Jobs with an intervention each, after a prompt of three tokens and the word."""
    backend = get_backend("hooked")
    jobs = [
        Job(
            i,
            Row(None, (10, 11, 12), 0, 9, [WORD], reading=1),
            Sampling(),
            (each.bind(model),),
            (),
            99,
        )
        for i, each in enumerate(interventions)
    ]
    strands = strands or list(range(len(jobs)))
    mask = torch.ones(max(strands) + 1, 4, dtype=torch.long)
    batch = Batch(model, backend, jobs, strands, mask, backend.new_cache(model, len(mask)))
    tokens = torch.tensor([[10, 11, 12, WORD]] * len(mask))
    outputs = {}
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(3)]
    hooks = [
        (name, lambda states, hook, layer=layer: outputs.update({layer: states[:, -1:]}))
        for layer, name in enumerate(names)
    ]
    with model.hooks(fwd_hooks=hooks):
        backend.step(model, tokens, mask, batch.cache, 0)
    return batch, outputs


def test_a_block_runs_again_in_the_strands_that_read_the_word(tiny_model):
    consumed = Recycle(1, (WORD,), trigger="consumed")
    batch, outputs = batch_of(
        tiny_model, consumed, Recycle(1, (OTHER,), trigger="consumed"), Recycle(1, (WORD,))
    )
    states = recycle_consumed(batch, 1, outputs[1])
    changed = (states != outputs[1]).flatten(1).any(1)
    assert changed.tolist() == [True, False, False]
    assert [len(job.row.events) for job in batch.jobs] == [1, 0, 0]
    assert recycle_consumed(batch, 2, outputs[2]) is outputs[2]


def test_the_word_in_a_prompt_asks_for_nothing(tiny_model):
    batch, outputs = batch_of(tiny_model, Recycle(1, (WORD,), trigger="consumed"))
    batch.jobs[0].row.reading = 4
    assert recycle_consumed(batch, 1, outputs[1]) is outputs[1]


def test_outputs_are_wanted_of_the_candidates_layer_only(tiny_model):
    batch, _ = batch_of(tiny_model, Recycle(1, (WORD,)), Recycle(2, (WORD,), trigger="consumed"))
    assert [awaits_candidates(batch, layer) for layer in range(3)] == [False, True, False]


def test_a_recycled_job_parts_from_its_strand_and_draws_anew(tiny_model):
    batch, outputs = batch_of(tiny_model, Recycle(1, (WORD,)), Recycle(1, (OTHER,)), strands=[0, 0])
    current = CurrentPass()
    current.start(batch, batch.strand_view)
    current.outputs[1] = outputs[1]
    for job in batch.jobs:
        job.row.candidate = WORD
    drawn = []

    def draw(view, logits):
        drawn.append(([job.index for job in view.jobs], logits.shape))
        view.rows[0].candidate = OTHER

    parted = recycle_candidates(current, draw)
    assert drawn == [([0], (1, tiny_model.cfg.d_vocab))]
    assert (batch.strands, parted.strands) == ([0, 0], [0, 1])
    assert not current.reads_tokens
    assert not current.outputs
    assert [job.row.candidate for job in parted.jobs] == [OTHER, WORD]
    (event,) = parted.jobs[0].row.events
    assert (event["layer"], event["wanted"], event["emitted"]) == (1, WORD, OTHER)


def test_nothing_parts_where_no_candidate_asks(tiny_model):
    batch, outputs = batch_of(tiny_model, Recycle(1, (OTHER,)))
    current = CurrentPass()
    current.start(batch, batch.strand_view)
    current.outputs[1] = outputs[1]
    batch.jobs[0].row.candidate = WORD
    assert recycle_candidates(current, lambda view, logits: None) is batch
    assert not current.outputs
