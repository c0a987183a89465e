import pytest
import torch

from mi_lens.generation.engines.vllm_engine import VLLMEngine, _refusal
from mi_lens.generation.request import Request
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.gate import Gate
from mi_lens.interventions.probe import StateProbe
from mi_lens.interventions.protocol import Action, Intervention
from mi_lens.interventions.recycle import Recycle
from mi_lens.interventions.steer import Steer
from mi_lens.interventions.suppress import Suppress


def request_for(*interventions):
    return Request("Hi", Condition(interventions))


RECYCLE = Recycle(1, ["So"])
STEER = Steer(torch.ones(4), "blocks.2.hook_resid_pre")


def probe(hook_name):
    return StateProbe(hook_name, [1.0] * 4, 0.0, "", "peak", 0.5, 0.4, 0.6, 1, 1, (0.0, 1.0), {})


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
        (Gate(RECYCLE, entropy=1.0), None),
        (Gate(STEER, probe=probe("blocks.1.hook_resid_post")), None),
        (Gate(STEER, probe=probe("blocks.1.hook_mlp_out")), "a gate's probe at"),
        (Gate(Own(), times=1), "Own, a class of your own"),
    ],
)
def test_what_every_engine_refuses(intervention, reason):
    refusal = VLLMEngine.refusal(request_for(intervention))
    assert refusal is None if reason is None else reason in (refusal or "")


def test_a_pipeline_recycles_nothing():
    assert "use tensor_parallel_size" in (_refusal(True, None, request_for(RECYCLE)) or "")
    assert _refusal(True, None, request_for(STEER, Suppress(["So"]))) is None
    assert _refusal(False, None, request_for(RECYCLE)) is None
    for gate in (Gate(STEER, entropy=0.0), Gate(STEER, probe=probe("blocks.1.hook_resid_post"))):
        assert "only the last knows these numbers" in (
            _refusal(True, None, request_for(gate)) or ""
        )
    assert _refusal(True, None, request_for(Gate(STEER, steps=(3, 9)))) is None
    assert "recycling" in (_refusal(True, None, request_for(Gate(RECYCLE, times=1))) or "")


def test_a_compiled_model_is_reached_where_it_is_watched():
    both = request_for(RECYCLE, STEER)
    assert _refusal(False, {1, 2}, both) is None
    assert "at blocks [2], and the model was compiled for [1]" in (_refusal(False, {1}, both) or "")
    assert "at blocks [1, 2]" in (_refusal(False, set(), both) or "")
    several = request_for(Recycle((1, 3), ["So"]))
    assert "at blocks [2], and" in (_refusal(False, {1, 3}, several) or "")
    assert _refusal(False, {1, 2, 3}, several) is None
    gated = request_for(Gate(RECYCLE, probe=probe("blocks.3.hook_resid_post")))
    assert "at blocks [3], and" in (_refusal(False, {1}, gated) or "")
    assert _refusal(False, set(), request_for(Suppress(["So"]))) is None
