from dataclasses import replace

import pytest
import torch

from mi_lens.interventions.vector import SteeringVector
from mi_lens.problems.problem import Problem
from mi_lens.steering.attribution import steering_attribution
from mi_lens.traces.thoughts import ThoughtClass, split_thoughts
from mi_lens.traces.trace import Trace

TEXTS = [
    "Okay.\n\n12 * 7 is 84.\n\nWait, let me see.\n\nSo 84.\n</think>",
    "no boundary at all",
    "Okay.\n\nAlternatively, swap the factors.\n\n84 - 5 = 79.",
    "One\n\nthought",
]
NAMES = [
    "blocks.0.hook_resid_post",
    "blocks.1.attn.hook_z[3]",
    "blocks.1.hook_mlp_out",
    "blocks.2.hook_resid_post",
]


@pytest.fixture(scope="module")
def traces(tokenizer):
    problem = Problem("set/a", "What is 12 * 7?", "84")
    return [Trace.from_text(tokenizer, problem, text) for text in TEXTS]


def vector_at(name, seed=0):
    width = 8 if "[" in name else 32
    numbers = torch.randn(width, generator=torch.Generator().manual_seed(seed)).double()
    counts: dict[ThoughtClass, int] = {"execution": 3, "reflection": 2, "transition": 1}
    return SteeringVector(name, numbers, "m", "E-RT", "seal", counts, {"key": "id"}, 0.9)


def log_p(model, trace, thoughts, vector, alpha):
    """Log probabilities behind the boundaries, with the vector added there by a plain hook."""
    ids = torch.tensor([[*trace.prompt_ids, *trace.token_ids]])
    places = sorted({len(trace.prompt_ids) - 1 + thought.start for thought in thoughts})
    hook, head = vector.hook_name, None
    if "[" in hook:
        hook, head = hook[:-3], int(hook[-2])

    def act(states, hook):
        new = states.clone()
        for place in places:
            if head is None:
                new[0, place] += alpha * vector.vector
            else:
                new[0, place, head] += alpha * vector.vector
        return new

    with torch.no_grad(), model.hooks(fwd_hooks=[(hook, act)]):
        return model(ids)[0, places].double().log_softmax(-1)


def test_derivatives_are_those_of_finite_differences(tiny_model, traces):
    vectors = {name: vector_at(name, i) for i, name in enumerate(NAMES)}
    found = steering_attribution(tiny_model, traces, vectors)
    assert list(found) == NAMES
    step = 1e-4
    for name, vector in vectors.items():
        slopes, curvatures = {}, []
        for trace in traces:
            thoughts = split_thoughts(tiny_model.tokenizer, trace)
            if not thoughts:
                continue
            at = {a: log_p(tiny_model, trace, thoughts, vector, a) for a in (-step, 0.0, step)}
            for row, thought in enumerate(thoughts):
                token = trace.token_ids[thought.start]
                slope = (at[step][row, token] - at[-step][row, token]) / (2 * step)
                slopes.setdefault(thought.thought_class, []).append(float(slope))
            for a in (-step, step):
                kl = (at[0.0].exp() * (at[0.0] - at[a])).sum(-1)
                curvatures.append(kl / step**2)
        expected = {kind: sum(values) / len(values) for kind, values in slopes.items()}
        assert found[name].log_p == pytest.approx(expected, rel=1e-5, abs=1e-8)
        kl = float(torch.cat(curvatures).mean())
        assert found[name].kl == pytest.approx(kl, rel=1e-3)
        others = (expected["reflection"] + expected["transition"]) / 2
        assert found[name].contrast == pytest.approx(expected["execution"] - others, rel=1e-5)
        assert found[name].boundaries == len(torch.cat(curvatures)) // 2
        assert found[name].kl > 0


def test_the_bridge_agrees(tiny_bridge, tiny_model, traces):
    vectors = {name: vector_at(name) for name in NAMES}
    ours = steering_attribution(tiny_model, traces, vectors)
    theirs = steering_attribution(tiny_bridge, traces, vectors)
    for name in NAMES:
        assert theirs[name].log_p == pytest.approx(ours[name].log_p, rel=1e-3, abs=1e-4)
        assert theirs[name].kl == pytest.approx(ours[name].kl, rel=1e-3)


def test_the_model_is_left_as_it_was(tiny_model, traces):
    tokens = torch.tensor([traces[0].prompt_ids])
    before = tiny_model(tokens)
    steering_attribution(tiny_model, traces[:1], {"v": vector_at(NAMES[0])})
    assert torch.equal(tiny_model(tokens), before)
    assert not any(point.fwd_hooks for point in tiny_model.hook_dict.values())


def test_what_cannot_be_done_is_named(tiny_model, traces):
    vectors = {"v": vector_at(NAMES[0])}
    with pytest.raises(ValueError, match="no vectors"):
        steering_attribution(tiny_model, traces, {})
    with pytest.raises(ValueError, match="no thoughts in 1 traces"):
        steering_attribution(tiny_model, traces[1:2], vectors)
    with pytest.raises(ValueError, match="no traces"):
        steering_attribution(tiny_model, [], vectors)
    with pytest.raises(ValueError, match="does not exist"):
        steering_attribution(tiny_model, traces, {"v": vector_at("blocks.1.hook_nowhere")})
    wrong = replace(vector_at("blocks.1.attn.hook_z[1]"), hook_name="blocks.1.attn.hook_z")
    with pytest.raises(ValueError, match=r"holds 4 x 8 numbers per position, and its vector 8"):
        steering_attribution(tiny_model, traces, {"v": wrong})
    one_class = steering_attribution(tiny_model, traces[3:], vectors)["v"]
    assert one_class.contrast is None
    assert list(one_class.log_p) == ["execution"]
