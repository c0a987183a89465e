import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from mi_lens.generation.generate import generate
from mi_lens.models.backends.lookup import backend_of
from mi_lens.models.loading import load
from mi_lens.problems.problem import Problem
from mi_lens.states import segments as streaming
from mi_lens.states.answer_state import answer_state
from mi_lens.states.capture import capture
from mi_lens.states.capture_to_disk import capture_into
from mi_lens.states.segments import last_states
from mi_lens.states.shard import load_activations, save_activations
from mi_lens.states.uncertainty import next_token_similarity, next_token_uncertainty
from mi_lens.traces.trace import Trace

HOOKS = ["blocks.0.hook_resid_pre", "blocks.1.hook_resid_post", "blocks.2.hook_resid_post"]
QUESTIONS = ["What is 12 * 7 - 5?", "Hi", "A farmer has 37 boxes with 48 apples each"]
PROBLEM = Problem("p/1", "What is 2 + 2?", "4 apples", solution="So 2 + 2 = 4. Therefore 4.")


@pytest.fixture(params=["tiny_model", "tiny_bridge"])
def model(request, float64_throughout):
    """Either model; a bridge's Hugging Face layers would drop to float32 in places."""
    model = request.getfixturevalue(request.param)
    with float64_throughout():
        yield model


@pytest.fixture(scope="module")
def hugging_face(checkpoint, reference):
    return reference(checkpoint("qwen2"))


@pytest.fixture(scope="module")
def traces(tiny_model):
    return [
        generate(tiny_model, [question], max_new_tokens=5 + 7 * i, progress=False)[0]
        for i, question in enumerate(QUESTIONS)
    ]


def test_equal_to_the_states_seen_while_decoding(model):
    seen = {name: [] for name in HOOKS}

    def record(activation, hook, name):
        seen[name].append(activation[:, -1].clone())

    with model.hooks(fwd_hooks=[(name, partial(record, name=name)) for name in HOOKS]):
        (trace,) = generate(model, QUESTIONS[:1], max_new_tokens=12, progress=False)
    (states,) = capture(model, [trace], HOOKS)
    for name in HOOKS:
        assert states[name].shape == (12, 32)
        torch.testing.assert_close(states[name], torch.cat(seen[name]), rtol=1e-10, atol=1e-10)


def test_row_t_is_the_state_that_emits_token_t(model, traces):
    last = "blocks.2.hook_resid_post"
    for trace, states in zip(traces, capture(model, traces, [last]), strict=True):
        emitted = model.unembed(model.ln_final(states[last][None]))[0].argmax(-1)
        assert tuple(emitted.tolist()) == trace.token_ids


def test_equal_to_hugging_face(tiny_model, traces, hugging_face, float64_throughout):
    (states,) = capture(tiny_model, traces[:1], HOOKS[:2])
    trace = traces[0]
    ids = torch.tensor([trace.prompt_ids + trace.token_ids])
    with float64_throughout(), torch.no_grad():
        hidden = hugging_face(ids, output_hidden_states=True).hidden_states
    first = len(trace.prompt_ids) - 1
    # hidden_states[k] is the input of block k.
    for name, k in zip(HOOKS, (0, 2), strict=False):
        expected = hidden[k][0, first : first + len(trace)]
        torch.testing.assert_close(states[name], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("segment", [1, 7, 512])
@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_batches_and_segments_change_nothing(model, traces, monkeypatch, segment, batch_size):
    whole = capture(model, traces, HOOKS, batch_size=1)
    monkeypatch.setattr(streaming, "SEGMENT", segment)
    parts = capture(model, traces, HOOKS, batch_size=batch_size)
    for a, b in zip(whole, parts, strict=True):
        for name in HOOKS:
            torch.testing.assert_close(a[name], b[name], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("length", [1, 7, None])
def test_hooks_of_a_segment_see_that_segment(model, length):
    sequences = [range(5, 25), range(30, 43)]
    name, seen = HOOKS[1], []

    def hooks(start, stop):
        return [(name, lambda states, hook: seen.append((start, stop, states.clone())))]

    cache = streaming.read_in_segments(model, sequences, hooks, length=length)
    assert backend_of(model).cache_length(cache) == 20
    assert [start for start, _, _ in seen] == list(range(0, 20, length or 20))
    assert all(states.shape[1] == stop - start for start, stop, states in seen)
    whole = torch.cat([states for _, _, states in seen], dim=1)
    for row, states in enumerate(last_states(model, sequences, [name], [20, 13])):
        last = whole[row, -len(states[name]) :]
        torch.testing.assert_close(last, states[name], rtol=1e-10, atol=1e-10)


def test_processed_weights_are_refused(checkpoint, traces, tmp_path):
    """TransformerLens folds norms into weights by default; "LNPre" says that it did."""
    model = load(checkpoint("gpt2"), backend="hooked", device="cpu")
    model.process_weights_()
    assert model.cfg.normalization_type == "LNPre"
    with pytest.raises(ValueError, match=r"processed.*'LNPre'.*mi_lens\.load"):
        capture(model, traces, HOOKS)
    with pytest.raises(ValueError, match=r"processed.*'LNPre'.*mi_lens\.load"):
        capture_into(model, traces, HOOKS, tmp_path)
    assert not list(tmp_path.iterdir())


def test_answer_state_sites(model):
    name = "blocks.1.hook_resid_post"
    tokenizer = model.tokenizer

    def last(text, count=1):
        ids = tokenizer.encode(text)
        return last_states(model, [ids], [name], [count])[0][name]

    solution = answer_state(model, PROBLEM, [name])[name]
    torch.testing.assert_close(solution, last(PROBLEM.solution)[-1])
    answer = answer_state(model, PROBLEM, [name], site="answer_last")[name]
    torch.testing.assert_close(answer, last(PROBLEM.answer)[-1])
    mean = answer_state(model, PROBLEM, [name], site="answer_mean")[name]
    count = len(tokenizer.encode(PROBLEM.answer))
    assert count > 1
    torch.testing.assert_close(mean, last(PROBLEM.answer, count).mean(0))
    assert solution.shape == answer.shape == mean.shape == (32,)


def test_answer_state_under_the_template(model):
    name = "blocks.1.hook_resid_post"
    trace = Trace.from_text(model.tokenizer, PROBLEM, PROBLEM.solution or "")
    ids = [*trace.prompt_ids, *trace.token_ids]
    expected = last_states(model, [ids], [name], [1])[0][name][0]
    state = answer_state(model, PROBLEM, [name], template=True)[name]
    torch.testing.assert_close(state, expected)
    assert not torch.allclose(state, answer_state(model, PROBLEM, [name])[name])


def test_special_tokens_stay_out_of_the_mean(checkpoint, tmp_path):
    """A tokenizer that opens plain text with <bos>: it is read, but is no part of the answer."""
    import shutil

    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    from mi_lens.models.loading import load

    folder = shutil.copytree(checkpoint("qwen2"), tmp_path / "with_bos")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", tokenizer.bos_token_id)]
    )
    tokenizer.save_pretrained(folder)
    model = load(str(folder), dtype="float64", device="cpu")
    name = "blocks.1.hook_resid_post"
    ids = model.tokenizer.encode(PROBLEM.answer)
    assert ids[0] == tokenizer.bos_token_id
    states = last_states(model, [ids], [name], [len(ids)])[0][name]
    mean = answer_state(model, PROBLEM, [name], site="answer_mean")[name]
    torch.testing.assert_close(mean, states[1:].mean(0))


def test_files_come_back(tiny_model, traces, tmp_path):
    (states,) = capture(tiny_model, traces[:1], HOOKS)
    path = tmp_path / "a.safetensors"
    save_activations(states, path, trace=traces[0].id)
    loaded = load_activations(path)
    assert loaded.keys() == states.keys()
    for name in HOOKS:
        assert torch.equal(loaded[name], states[name])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_activations(path)
    with pytest.raises(FileNotFoundError, match="no such activations"):
        load_activations(tmp_path / "absent")


def test_a_trace_of_one_token(tiny_model, traces):
    short = replace(traces[1], token_ids=traces[1].token_ids[:1])
    (states,) = capture(tiny_model, [short], HOOKS)
    (longer,) = capture(tiny_model, traces[1:2], HOOKS)
    for name in HOOKS:
        assert states[name].shape == (1, 32)
        torch.testing.assert_close(states[name], longer[name][:1], rtol=1e-10, atol=1e-10)


def test_uncertainty(tiny_model, traces):
    last = "blocks.2.hook_resid_post"
    (states,) = capture(tiny_model, traces[2:], [last])
    uncertainty = next_token_uncertainty(tiny_model, traces[2], states[last])
    ids = torch.tensor([traces[2].prompt_ids + traces[2].token_ids])
    log_p = tiny_model(ids)[0].log_softmax(-1)[len(traces[2].prompt_ids) - 1 : -1] / math.log(2)
    entropy = -(log_p.exp2() * log_p).sum(-1)
    surprisal = -log_p[range(len(traces[2])), list(traces[2].token_ids)]
    np.testing.assert_allclose(uncertainty["entropy"], entropy.numpy(), rtol=1e-9)
    np.testing.assert_allclose(uncertainty["surprisal"], surprisal.numpy(), rtol=1e-9)
    with pytest.raises(ValueError, match=r"for a trace of \d+ steps"):
        next_token_uncertainty(tiny_model, traces[2], states[last][:1])


def test_next_token_similarity(tiny_model, traces):
    last = "blocks.2.hook_resid_post"
    (states,) = capture(tiny_model, traces[2:], [last])
    answer = answer_state(tiny_model, PROBLEM, last)[last]
    similarity = next_token_similarity(tiny_model, traces[2], states[last], answer)
    ids = torch.tensor([traces[2].prompt_ids + traces[2].token_ids])
    steps = tiny_model(ids)[0].softmax(-1)[len(traces[2].prompt_ids) - 1 : -1]
    after = tiny_model(torch.tensor([tiny_model.tokenizer.encode(PROBLEM.solution)]))[0, -1]
    expected = [1 - jensenshannon(p.numpy(), after.softmax(-1).numpy(), base=2) ** 2 for p in steps]
    np.testing.assert_allclose(similarity, expected, rtol=1e-7)
    own = next_token_similarity(tiny_model, traces[2], states[last], states[last][3])
    assert own[3] == own.max() == pytest.approx(1)
    with pytest.raises(ValueError, match=r"for a trace of \d+ steps"):
        next_token_similarity(tiny_model, traces[2], states[last][:1], answer)


def test_bad_input(tiny_model, traces):
    trace = traces[0]
    name = HOOKS[:1]
    empty = replace(trace, token_ids=())
    foreign = replace(trace, token_ids=(5, 10_000))
    long = replace(trace, token_ids=trace.token_ids * 60)
    for wrong, names, message in (
        ([], name, "no traces to capture"),
        ([trace], [], "no hook names to capture"),
        ([trace, empty], name, f"trace {trace.id} is empty"),
        ([foreign], name, r"holds token 10000 and this model's vocabulary has"),
        ([long], name, r"sequence 0 has \d+ tokens; expected 1 to the model's context, 256"),
        ([trace], ["blocks.1.hook_resid_pst"], r"near: .*blocks\.1\.hook_resid_post"),
        ([trace], ["blocks.28.hook_resid_post"], "the model has 3 layers"),
        ([trace], ["blocks.1.attn.hook_pattern"], r"expected \(batch, pos, d\)"),
    ):
        with pytest.raises(ValueError, match=message):
            capture(tiny_model, wrong, names)
    with pytest.raises(ValueError, match=r"p/1 has no solution; use another site"):
        answer_state(tiny_model, replace(PROBLEM, solution=None), name)
    with pytest.raises(ValueError, match="p/1 has no answer"):
        answer_state(tiny_model, replace(PROBLEM, answer=""), name, site="answer_mean")
