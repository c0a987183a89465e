from typing import Any

import pytest
import torch

from mi_lens.generation import loop
from mi_lens.generation.generate import generate
from mi_lens.generation.request import Request
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.recycle import Recycle
from mi_lens.interventions.row import Row

PROMPTS = ["What is 12 * 7 - 5?", "Hi", "So let me think. What is 3?"]
EVERY_THIRD = tuple(range(0, 384, 3))


@pytest.fixture(params=["tiny_model", "tiny_bridge"])
def model(request):
    return request.getfixturevalue(request.param)


class ByHand:
    """Decodes without a cache, position by position, block by block.

    A block attends to what it would make of `seen[layer]`, the inputs at earlier positions, and a
    recycled position leaves there what the choice of kv says.
    """

    def __init__(self, model, settings: Recycle):
        self.model, self.settings = model, settings
        layer: Any = settings.layer
        ends = [layer] if isinstance(layer, str) else layer
        numbers = [int(name.split(".")[1]) for name in ends]
        self.blocks, self.layer = range(numbers[0], numbers[-1] + 1), numbers[-1]
        self.seen = [[] for _ in model.blocks]
        self.recycled = []

    def block(self, layer, state):
        whole = torch.stack([*self.seen[layer], state])[None]
        return self.model.blocks[layer](whole)[0, -1]

    def through(self, state, start, stop):
        for layer in range(start, stop):
            output = self.block(layer, state)
            self.seen[layer].append(state)
            state = output
        return state

    def recycle(self, state):
        """The state at the position last read, its blocks run again on it."""
        inside = first = [self.seen[layer].pop() for layer in self.blocks]
        for _ in range(self.settings.passes):
            inside, output = [], state
            for layer in self.blocks:
                inside.append(output)
                output = self.block(layer, output)
            state = (1 - self.settings.damping) * state + self.settings.damping * output
        for layer, read in zip(
            self.blocks, inside if self.settings.kv == "replace" else first, strict=True
        ):
            self.seen[layer].append(read)
        return state

    def logits(self, state):
        return self.model.unembed(self.model.ln_final(state[None, None]))[0, 0]

    def decode(self, prompt_ids, n):
        tokens, generated = list(prompt_ids), []
        for position in range(len(prompt_ids) + n - 1):
            end = len(self.seen)
            state = self.model.W_E[tokens[position]]
            state = self.through(state, 0, self.layer + 1)
            step = position - len(prompt_ids)
            consumed = self.settings.trigger == "consumed" and step >= 0
            if consumed and tokens[position] in EVERY_THIRD:
                state = self.recycle(state)
                self.recycled.append(step + 1)
            output = self.through(state, self.layer + 1, end)
            if step < -1:
                continue
            token = int(self.logits(output).argmax())
            if self.settings.trigger == "candidate" and token in EVERY_THIRD:
                for seen in self.seen[self.layer + 1 :]:
                    seen.pop()
                output = self.through(self.recycle(state), self.layer + 1, end)
                token = int(self.logits(output).argmax())
                self.recycled.append(step + 1)
            generated.append(token)
            tokens.append(token)
        return generated


@pytest.mark.parametrize("kv", ["replace", "keep"])
@pytest.mark.parametrize("trigger", ["candidate", "consumed"])
@pytest.mark.parametrize(
    ("layer", "passes", "damping"),
    [
        (0, 1, 1.0),
        (1, 2, 1.0),
        (2, 1, 0.5),
        (1, 4, 0.25),
        ((0, 1), 2, 1.0),
        ((1, 2), 1, 1.0),
        ((0, 2), 3, 0.3),
    ],
)
def test_decoding_equals_an_evaluation_by_hand(tiny_model, layer, passes, damping, trigger, kv):
    settings = Recycle(layer, EVERY_THIRD, passes, trigger, kv, damping=damping)
    traces = generate(tiny_model, PROMPTS, settings, max_new_tokens=14, progress=False)
    plain = generate(tiny_model, PROMPTS, max_new_tokens=14, progress=False)
    assert [t.token_ids for t in traces] != [t.token_ids for t in plain]
    for trace in traces:
        by_hand = ByHand(tiny_model, settings)
        assert by_hand.decode(trace.prompt_ids, len(trace)) == list(trace.token_ids)
        assert by_hand.recycled == [event["step"] for event in trace.events]
        assert by_hand.recycled


@pytest.mark.parametrize(
    ("layer", "trigger"),
    [(1, "candidate"), (1, "consumed"), ((0, 2), "candidate"), ((1, 2), "consumed")],
)
def test_the_bridge_does_the_same(tiny_model, tiny_bridge, layer, trigger):
    damping = 1.0 if layer == 1 else 0.6
    settings = Recycle(layer, EVERY_THIRD, trigger=trigger, damping=damping)
    ours, theirs = (
        generate(m, PROMPTS, settings, max_new_tokens=10, progress=False)
        for m in (tiny_model, tiny_bridge)
    )
    assert [t.token_ids for t in ours] == [t.token_ids for t in theirs]
    assert [t.events for t in ours] == [t.events for t in theirs]


@pytest.mark.parametrize("trigger", ["candidate", "consumed"])
def test_other_rows_are_not_touched_by_a_bit(model, trigger):
    def logits_beside(condition, monkeypatch):
        seen = []
        drawn = loop.draw

        def spy(view, logits):
            if view.jobs[0].index == 0:  # which no action recycles
                seen.append(logits[0].clone())
            drawn(view, logits)

        with monkeypatch.context() as patch:
            patch.setattr(loop, "draw", spy)
            requests = [Request(PROMPTS[0], max_new_tokens=9)]
            requests += [Request(p, condition, max_new_tokens=9) for p in PROMPTS[1:]]
            traces = generate(model, requests, progress=False)
        return traces, torch.stack(seen)

    monkeypatch = pytest.MonkeyPatch()
    alone, plain = logits_beside(Condition(), monkeypatch)
    beside, recycled = logits_beside(
        Condition((Recycle(1, EVERY_THIRD, trigger=trigger),)), monkeypatch
    )
    assert any(trace.events for trace in beside[1:])
    assert torch.equal(plain, recycled)
    assert alone[0] == beside[0]


@pytest.mark.parametrize("trigger", ["candidate", "consumed"])
def test_hooks_fire_once_where_nothing_is_computed_anew(model, trigger):
    layer = 1
    counts: dict[str, int] = {}

    def counter(name):
        def count(activation, hook):
            counts[name] = counts.get(name, 0) + 1

        return count

    parts = ("hook_resid_pre", "attn.hook_v", "hook_mlp_out", "hook_resid_post")
    names = [f"blocks.{i}.{part}" for i in range(3) for part in parts]
    with model.hooks(fwd_hooks=[(name, counter(name)) for name in names]):
        (trace,) = generate(
            model,
            PROMPTS[:1],
            Recycle(layer, EVERY_THIRD, trigger=trigger),
            max_new_tokens=10,
            progress=False,
        )
    for name in names:
        above = int(name.split(".")[1]) > layer
        again = len(trace.events) if above and trigger == "candidate" else 0
        assert counts[name] == len(trace) + again, name
    assert trace.events


def test_the_coin_is_the_requests_own(tiny_model):
    settings = Recycle(1, tuple(range(384)), trigger="consumed", probability=0.5)
    requests = [
        Request(p, Condition((settings,)), seed=s, max_new_tokens=40)
        for p in PROMPTS
        for s in range(3)
    ]
    together = generate(tiny_model, requests, progress=False)
    assert together == [generate(tiny_model, [r], progress=False)[0] for r in requests]
    steps = [tuple(event["step"] for event in trace.events) for trace in together]
    assert len(set(steps)) > 6
    share = sum(map(len, steps)) / sum(len(trace) - 1 for trace in together)
    assert 0.4 < share < 0.6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer": "blocks.1.hook_resid_pre"}, "layer='blocks.1.hook_resid_pre'"),
        ({"layer": -1}, "layer='blocks.-1.hook_resid_post'"),
        ({"layer": (2, 1)}, r"layer=\(2, 1\): expected one layer, or the first and the last"),
        ({"layer": (0, 1, 2)}, r"layer=\(0, 1, 2\): expected one layer, or the first and"),
        ({"layer": (0, "blocks.1.hook_resid_pre")}, "layer='blocks.1.hook_resid_pre'"),
        ({"damping": 0.0}, "damping=0.0: expected above 0, at most 1"),
        ({"damping": 1.5}, "damping=1.5"),
        ({"damping": float("nan")}, "damping=nan"),
        ({"passes": 0}, "passes=0"),
        ({"probability": 0.0}, "probability=0.0"),
        ({"words": ()}, "no words given"),
    ],
)
def test_impossible_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Recycle(**({"layer": 1, "words": ("so",)} | settings))


def test_a_layer_that_the_model_lacks(tiny_model):
    with pytest.raises(ValueError, match=r"the model has 3 layers, blocks.0 to blocks.2"):
        generate(tiny_model, ["q"], Recycle(3, ["so"]))
    with pytest.raises(ValueError, match=r"the model has 3 layers, blocks.0 to blocks.2"):
        generate(tiny_model, ["q"], Recycle((1, 3), ["so"]))
    overlapping = [Recycle(layer, ["so"], trigger="consumed") for layer in ((0, 1), (1, 2))]
    with pytest.raises(ValueError, match="each layer once"):
        Condition(tuple(overlapping))
    with pytest.raises(ValueError, match="only one Recycle"):
        Condition((Recycle(1, ["so"]), Recycle(2, ["so"], trigger="consumed")))


def test_the_settings_of_one_layer_read_as_before():
    """Ids of traces, and conditions in files, name no setting that did not exist."""
    settings = Recycle(2, ["so"])
    assert list(settings.to_json()) == ["layer", "words", "passes", "trigger", "kv", "probability"]
    assert repr(settings) == (
        "Recycle(layer='blocks.2.hook_resid_post', words=('so',), passes=1, "
        "trigger='candidate', kv='replace', probability=1.0)"
    )
    assert Recycle((2, 2), ["so"]) == settings
    assert "damping=0.5" in repr(Recycle(2, ["so"], damping=0.5))
    assert list(Recycle((0, 2), ["so"]).blocks) == [0, 1, 2]


def test_logits_move_in_proportion_to_a_small_damping(tiny_model):
    (plain,) = generate(tiny_model, PROMPTS[:1], max_new_tokens=1, progress=False)
    tokens = torch.tensor([plain.prompt_ids])
    row = Row(None, plain.prompt_ids, 0, 1, [], candidate=plain.token_ids[0])
    with torch.no_grad():
        was = tiny_model(tokens)[0, -1]
        moved = {}
        for damping in (1e-4, 2e-4, 1.0):
            recycle = Recycle((0, 1), [plain.token_ids[0]], damping=damping)
            hooks = recycle.fwd_hooks(tiny_model, row)
            moved[damping] = tiny_model.run_with_hooks(tokens, fwd_hooks=hooks)[0, -1] - was
    assert (moved[2e-4] - 2 * moved[1e-4]).norm() < 1e-3 * moved[2e-4].norm()
    assert moved[1.0].norm() > 100 * moved[2e-4].norm() > 0
