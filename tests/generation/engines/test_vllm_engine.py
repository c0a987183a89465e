import pytest
import torch

from mi_lens.generation.engines.vllm_engine import VLLMEngine, _refusal
from mi_lens.generation.request import Request
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.protocol import Action, Intervention
from mi_lens.interventions.recycle import Recycle
from mi_lens.interventions.steer import Steer
from mi_lens.interventions.suppress import Suppress


def request_for(*interventions):
    return Request("Hi", Condition(interventions))


RECYCLE = Recycle(1, ["So"])
STEER = Steer(torch.ones(4), "blocks.2.hook_resid_pre")


class Own(Intervention):
    """A class of a user's."""

    def bind(self, model):
        return Action()

    def to_json(self):
        return {}


@pytest.mark.parametrize(
    ("intervention", "reason"),
    [
        (RECYCLE, None),
        (STEER, None),
        (Suppress(["So"]), None),
        (Own(), "Own, a class of your own"),
        (Steer(torch.ones(4), "blocks.2.hook_attn_out"), "only the residual stream"),
    ],
)
def test_what_every_engine_refuses(intervention, reason):
    refusal = VLLMEngine.refusal(request_for(intervention))
    assert refusal is None if reason is None else reason in (refusal or "")


def test_a_pipeline_recycles_nothing():
    assert "use tensor_parallel_size" in (_refusal(True, None, request_for(RECYCLE)) or "")
    assert _refusal(True, None, request_for(STEER, Suppress(["So"]))) is None
    assert _refusal(False, None, request_for(RECYCLE)) is None


def test_a_compiled_model_is_reached_where_it_is_watched():
    both = request_for(RECYCLE, STEER)
    assert _refusal(False, {1, 2}, both) is None
    assert "at blocks [2], and the model was compiled for [1]" in (_refusal(False, {1}, both) or "")
    assert "at blocks [1, 2]" in (_refusal(False, set(), both) or "")
    assert _refusal(False, set(), request_for(Suppress(["So"]))) is None
