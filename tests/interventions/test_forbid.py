import pytest
import torch

from mi_lens.generation.generate import generate
from mi_lens.interventions.forbid import ForbidAt

QUESTION = ["What is 12 * 0?"]


def test_one_token_at_one_step(tiny_model):
    """The second-likeliest token takes the place, by a forward pass over the whole sequence."""
    (plain,) = generate(tiny_model, QUESTION, max_new_tokens=8, progress=False)
    for step in (0, 5):
        forbid = ForbidAt(step, plain.token_ids[step])
        (trace,) = generate(tiny_model, QUESTION, forbid, max_new_tokens=8, progress=False)
        assert trace.token_ids[:step] == plain.token_ids[:step]
        ids = torch.tensor([[*plain.prompt_ids, *plain.token_ids[:step]]])
        second = tiny_model(ids)[0, -1].topk(2).indices[1]
        assert trace.token_ids[step] == second
    later = ForbidAt(99, plain.token_ids[0])  # Not reached: it may be written elsewhere.
    (same,) = generate(tiny_model, QUESTION, later, max_new_tokens=8, progress=False)
    assert same.token_ids == plain.token_ids
    with pytest.raises(ValueError, match="token id 9999: this vocabulary has 0 to"):
        ForbidAt(0, 9999).bind(tiny_model)
