from dataclasses import replace

import pytest
import torch

import mi_lens.steering.seal
from mi_lens.generation.generate import generate
from mi_lens.interventions.steer import Steer
from mi_lens.interventions.vector import load_vectors, save_vectors
from mi_lens.models.fingerprint import model_fingerprint
from mi_lens.models.loading import load
from mi_lens.problems.loading import load_problems
from mi_lens.problems.problem import Problem
from mi_lens.steering.seal import extract_steering_vectors, states_of_thoughts
from mi_lens.traces.thoughts import EASYSTEER, split_thoughts
from mi_lens.traces.trace import Trace
from tests.live_bytes import LiveBytes

NAMES = ["blocks.0.hook_resid_pre", "blocks.1.hook_resid_post", "blocks.2.hook_resid_post"]
TEXTS = [
    "Okay.\n\n12 * 7 is 84.\n\nWait, let me see.\n\nSo 84.\n</think>\n\nWait, outside.",
    "Okay.\n\nAlternatively, swap the factors.\n\n84 - 5 = 79.",
    "First.\n\nNow 84.\n\nWait, that is wrong.\n\nAlternatively, I wait.",
    "no boundary at all",
    "So\n\nHmm, is it that?\n\nLet me check that again.\n\nSo I think that's correct.",
    "So\n\nAnother way is this.",
]


@pytest.fixture(scope="module")
def traces(tokenizer):
    # The last two are of one problem.
    names = ["a", "b", "c", "d", "e", "e"]
    problems = [Problem(f"set/{name}", f"What is 12 * 7, {name}?", "84") for name in names]
    return [
        Trace.from_text(tokenizer, problem, text)
        for problem, text in zip(problems, TEXTS, strict=True)
    ]


@pytest.fixture(scope="module")
def states(tiny_model, traces, tokenizer):
    """(class, problem, hook name) to the states, read by TransformerLens itself in one forward."""
    by_key = {}
    for trace in traces:
        tokens = torch.tensor([[*trace.prompt_ids, *trace.token_ids]])
        _, cache = tiny_model.run_with_cache(tokens, names_filter=lambda name: name in NAMES)
        for thought in split_thoughts(tokenizer, trace):
            boundary = len(trace.prompt_ids) + thought.start - 1
            for name in NAMES:
                key = (thought.thought_class, trace.problem.id, name)
                by_key.setdefault(key, []).append(cache[name][0, boundary])
    return by_key


def mean(states, classes, name, problems="abcde"):
    rows = [
        row
        for (thought_class, problem, hook), rows in states.items()
        if thought_class in classes and hook == name and problem[-1] in problems
        for row in rows
    ]
    return torch.stack(rows).mean(0)


E, R, T = {"execution"}, {"reflection"}, {"transition"}


@pytest.mark.parametrize(
    ("recipe", "subtracted"),
    [("E-RT", [R | T]), ("E-R", [R]), ("E-T", [T]), ("E-R-T", [R, T])],
)
@pytest.mark.parametrize("batch_size", [1, 4])
def test_agrees_with_a_plain_evaluation(tiny_model, traces, states, recipe, subtracted, batch_size):
    vectors = extract_steering_vectors(
        tiny_model, traces, NAMES, recipe=recipe, batch_size=batch_size
    )
    assert list(vectors) == NAMES
    # Problems a, c | b, e: dealt in turn, the one without thoughts not among them.
    for name, vector in vectors.items():
        expected, first, second = (
            mean(states, E, name, problems)
            - sum(mean(states, c, name, problems) for c in subtracted)
            for problems in ("abce", "ac", "be")
        )
        torch.testing.assert_close(vector.vector, expected, rtol=1e-9, atol=1e-11)
        assert vector.norm == pytest.approx(float(expected.norm()))
        if float(first.norm()) > 1e-6:  # At the embedding all boundaries are the same token.
            cosine = float(torch.cosine_similarity(first, second, dim=0))
            assert vector.reliability == pytest.approx(cosine, abs=1e-9)
        assert (vector.hook_name, vector.recipe, vector.rule) == (name, recipe, "seal")
        assert vector.model == model_fingerprint(tiny_model)
        assert vector.counts == {"execution": 5, "reflection": 4, "transition": 3}
        assert vector.problem_ids == ("set/a", "set/b", "set/c", "set/e")
        assert set(vector.problems) == {traces[i].problem.key for i in (0, 1, 2, 4)}


def test_another_rule(tiny_model, traces):
    vector = extract_steering_vectors(tiny_model, traces, NAMES[1:2], rule=EASYSTEER)[NAMES[1]]
    assert vector.rule == "easysteer"
    assert vector.counts["transition"] == 3


def test_the_bridge_agrees(tiny_bridge, tiny_model, traces):
    names = NAMES[1:]
    ours = extract_steering_vectors(tiny_bridge, traces, names)
    theirs = extract_steering_vectors(tiny_model, traces, names)
    for name in names:
        # Hugging Face's norms compute in float32.
        torch.testing.assert_close(ours[name].vector, theirs[name].vector, rtol=0, atol=1e-5)


def test_layers_are_counted_as_seal_does(
    checkpoint, reference, float64_throughout, tiny_model, traces
):
    """SEAL's layer n, hidden_states[n], is the output of block n - 1, at the boundary itself."""
    theirs = reference(checkpoint("qwen2"))
    with float64_throughout():
        tokens = torch.tensor([[*traces[0].prompt_ids, *traces[0].token_ids]])
        hidden = theirs(tokens, output_hidden_states=True).hidden_states
    (part,) = states_of_thoughts(tiny_model, traces[:1], NAMES)
    boundaries = [len(traces[0].prompt_ids) + thought.start - 1 for thought in part.thoughts]
    for layer, name in ((0, NAMES[0]), (2, NAMES[1])):
        expected = hidden[layer][0, boundaries]
        torch.testing.assert_close(part.states[name], expected, rtol=1e-9, atol=1e-9)


def test_states_stand_one_batch_at_a_time(tiny_model, traces, monkeypatch):
    sizes = []

    def counted(model, batch, hook_names, **settings):
        sizes.append((len(batch), settings["batch_size"]))
        return capture(model, batch, hook_names, **settings)

    capture = mi_lens.steering.seal.capture
    monkeypatch.setattr(mi_lens.steering.seal, "capture", counted)
    extract_steering_vectors(tiny_model, traces, NAMES[:1], batch_size=2)
    assert sizes == [(2, 2), (2, 2), (1, 2)]  # One trace has no thoughts: it is not read.


def test_only_states_at_boundaries_are_held(tiny_model, traces, tokenizer):
    """They are those that reading every step gives, and far fewer."""
    (whole,) = mi_lens.steering.seal.capture(tiny_model, traces[2:3], NAMES)
    with LiveBytes() as memory:
        (part,) = states_of_thoughts(tiny_model, traces[2:3], NAMES)
    steps = [thought.boundary_step for thought in split_thoughts(tokenizer, traces[2])]
    for name in NAMES:
        torch.testing.assert_close(part.states[name], whole[name][steps], rtol=1e-10, atol=1e-10)
    held = sum(states.nbytes for states in part.states.values())
    assert memory.now == held == len(NAMES) * len(steps) * 32 * 8

    long = replace(traces[2], token_ids=traces[2].token_ids * 4, text=traces[2].text * 4)
    peaks = {}
    for what, read in {
        "boundaries": lambda: list(states_of_thoughts(tiny_model, [long], NAMES)),
        "all steps": lambda: mi_lens.steering.seal.capture(tiny_model, [long], NAMES),
    }.items():
        with LiveBytes() as memory:
            read()
        peaks[what] = memory.peak
    boundaries = len(split_thoughts(tokenizer, long))
    saved = len(NAMES) * (len(long) - boundaries) * 32 * 8
    assert peaks["all steps"] - peaks["boundaries"] > 0.9 * saved


def test_read_thoughts(tiny_model, traces, tokenizer):
    parts = list(states_of_thoughts(tiny_model, traces, NAMES[1:2]))
    assert [part.problem.id[-1] for part in parts] == ["a", "b", "c", "e", "e"]
    thoughtful = [trace for trace in traces if split_thoughts(tokenizer, trace)]
    for part, trace in zip(parts, thoughtful, strict=True):
        assert part.thoughts == split_thoughts(tokenizer, trace)
        assert part.states[NAMES[1]].shape == (len(part.thoughts), 32)


def test_vectors_are_float32_at_least(checkpoint, traces):
    half = load(str(checkpoint("qwen2")), dtype="bfloat16", device="cpu")
    vector = extract_steering_vectors(half, traces, NAMES[1:2])[NAMES[1]].vector
    assert vector.dtype == torch.float32
    assert not vector.bfloat16().float().equal(vector)  # The mean is not rounded to bfloat16.


def test_a_half_without_a_class_has_no_reliability(tiny_model, traces):
    vector = extract_steering_vectors(tiny_model, traces[1:3], NAMES[1:2], recipe="E-R")[NAMES[1]]
    assert vector.reliability is None
    assert vector.vector.isfinite().all()


def test_errors(tiny_model, traces, tokenizer):
    plain = Trace.from_text(tokenizer, traces[0].problem, "So\n\n12 * 7 = 84.")
    with pytest.raises(ValueError, match="no transition thoughts by rule 'seal' in 1 traces"):
        extract_steering_vectors(tiny_model, traces[:1], NAMES, recipe="E-T")
    with pytest.raises(ValueError, match="no reflection or transition thoughts"):
        extract_steering_vectors(tiny_model, [plain], NAMES[:1])
    with pytest.raises(ValueError, match="no execution thoughts"):
        extract_steering_vectors(tiny_model, traces[3:4], NAMES[:1])
    with pytest.raises(ValueError, match="has no problem to tell what"):
        extract_steering_vectors(tiny_model, [replace(traces[0], problem=None)], NAMES)
    with pytest.raises(ValueError, match=r"blocks\.9"):
        extract_steering_vectors(tiny_model, traces, ["blocks.9.hook_resid_post"])


@pytest.mark.slow
def test_the_pocket_reasoner():
    """On real reasoning the vector is reliable, and knows the problems it was made from."""
    model = load("pocket-reasoner")
    problems = load_problems("pocket", split="train", limit=60)
    traces = generate(model, problems, batch_size=30, progress=False)
    names = [f"blocks.{block}.hook_resid_post" for block in range(4)]
    vectors = extract_steering_vectors(model, traces, names, batch_size=30)
    for vector in vectors.values():
        assert vector.counts["execution"] > vector.counts["reflection"] > 20
        assert vector.reliability is not None
        assert vector.reliability > 0.9
        vector.check_unused(load_problems("pocket", split="test", limit=200))
        with pytest.raises(ValueError, match="of 60 problems were used"):
            vector.check_unused(problems)
    assert vectors[names[0]].norm < vectors[names[3]].norm


@pytest.mark.parametrize("recipe", ["E-RT", "R-ET"])
def test_each_head_has_a_vector(tiny_model, tiny_bridge, traces, tokenizer, tmp_path, recipe):
    name = "blocks.1.attn.hook_z"
    vectors = extract_steering_vectors(tiny_model, traces, ["blocks.*.attn.hook_z"], recipe=recipe)
    assert list(vectors) == [f"blocks.{b}.attn.hook_z[{h}]" for b in range(3) for h in range(4)]
    by_class = {}
    for trace in traces:
        tokens = torch.tensor([[*trace.prompt_ids, *trace.token_ids]])
        _, cache = tiny_model.run_with_cache(tokens, names_filter=lambda n: n == name)
        for thought in split_thoughts(tokenizer, trace):
            boundary = len(trace.prompt_ids) + thought.start - 1
            by_class.setdefault(thought.thought_class, []).append(cache[name][0, boundary])
    e, r, t = (by_class[kind] for kind in ("execution", "reflection", "transition"))
    first, others = (e, r + t) if recipe == "E-RT" else (r, e + t)
    expected = torch.stack(first).mean(0) - torch.stack(others).mean(0)
    for head in range(4):
        vector = vectors[f"{name}[{head}]"]
        torch.testing.assert_close(vector.vector, expected[head], rtol=1e-9, atol=1e-11)
        assert vector.hook_name == f"{name}[{head}]"
    theirs = extract_steering_vectors(tiny_bridge, traces, [name], recipe=recipe)
    for place, vector in theirs.items():
        torch.testing.assert_close(vector.vector, vectors[place].vector, rtol=0, atol=1e-5)
    save_vectors(vectors, tmp_path / "heads.safetensors")
    assert list(load_vectors(tmp_path / "heads.safetensors")) == list(vectors)
    steer = Steer(str(tmp_path / "heads.safetensors"), f"{name}[3]")
    assert torch.equal(steer.vector, vectors[f"{name}[3]"].vector.double())
    generate(tiny_model, ["1?"], steer, max_new_tokens=2, progress=False)


def test_only_some_thoughts_count(tiny_model, traces, states):
    def only(trace, thought):
        return not (trace.problem.id == "set/c" and thought.thought_class == "reflection")

    name = NAMES[1]
    vector = extract_steering_vectors(tiny_model, traces, [name], only=only)[name]
    others = [
        row
        for (kind, problem, hook), rows in states.items()
        if hook == name and kind != "execution" and (kind, problem) != ("reflection", "set/c")
        for row in rows
    ]
    expected = mean(states, E, name) - torch.stack(others).mean(0)
    torch.testing.assert_close(vector.vector, expected, rtol=1e-9, atol=1e-11)
    assert vector.counts == {"execution": 5, "reflection": 3, "transition": 3}
    with pytest.raises(ValueError, match="no execution thoughts"):
        extract_steering_vectors(tiny_model, traces, [name], only=lambda trace, thought: False)
