import pytest
import torch
from torch import nn

from mi_lens.generation.engines.vllm_worker.layers import Stream


def test_only_states_that_changed_are_summed():
    generator = torch.Generator().manual_seed(0)
    hidden, residual = (torch.randn(4, 8, generator=generator).to(torch.bfloat16) for _ in range(2))
    stream = Stream(hidden.clone(), residual.clone())
    was = stream.at(slice(0, 3))
    assert torch.equal(was, (hidden + residual)[:3])
    states = was.clone()
    states[1] += 1
    stream.put(slice(0, 3), was, states)
    kept = [0, 2, 3]
    assert torch.equal(stream.hidden[kept], hidden[kept])
    assert stream.residual is not None
    assert torch.equal(stream.residual[kept], residual[kept])
    assert torch.equal(stream.at(torch.tensor([1]))[0], states[1])


@pytest.mark.parametrize("residual", [True, False])
def test_states_are_copies(residual):
    stream = Stream(torch.ones(2, 3), torch.ones(2, 3) if residual else None)
    stream.at(slice(None)).zero_()
    assert stream.hidden.eq(1).all()


class Block(nn.Module):
    """A layer as vLLM has them: its output, and the stream before it."""

    def forward(self, positions, hidden_states, residual):
        residual = hidden_states if residual is None else hidden_states + residual
        return torch.tanh(residual) * positions[:, None], residual


def layers_of(blocks, monkeypatch):
    import sys
    from types import ModuleType, SimpleNamespace

    utils = ModuleType("vllm.model_executor.models.utils")
    utils.PPMissingLayer = type("PPMissingLayer", (nn.Module,), {})  # pyright: ignore[reportAttributeAccessIssue]
    for name in ("vllm", "vllm.model_executor", "vllm.model_executor.models"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, utils.__name__, utils)
    from mi_lens.generation.engines.vllm_worker.layers import Layers

    return Layers(SimpleNamespace(model=SimpleNamespace(layers=blocks, norm=nn.Identity())))


def test_watched_layers_call_and_run_does_not(monkeypatch):
    blocks = [Block(), Block()]
    layers = layers_of(blocks, monkeypatch)
    seen = []

    def act(hidden, residual, number, before):
        seen.append((number, before))
        hidden += 1

    positions, states = torch.ones(2, dtype=torch.long), torch.zeros(2, 3)
    plain = Block()(positions, states + 1, None)
    layers.watch([1], act)
    assert torch.equal(blocks[0](positions, states.clone(), None)[0], torch.tanh(states))
    hidden, _ = blocks[1](positions, states.clone(), None)
    assert seen == [(1, True), (1, False)]
    assert torch.equal(hidden, plain[0] + 1)
    ran = layers.run(1, positions, Stream(states + 1))
    assert torch.equal(ran.hidden, plain[0])
    assert len(seen) == 2


def test_layers_that_ask_for_more_are_refused(monkeypatch):
    class Strange(nn.Module):
        def forward(self, positions, hidden_states, residual, pictures):
            return hidden_states, residual

    with pytest.raises(ValueError, match=r"ask for \['pictures'\]; expected only"):
        layers_of([Strange()], monkeypatch)
