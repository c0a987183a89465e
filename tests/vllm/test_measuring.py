"""Traces measured in vLLM's workers: the numbers of TransformerLens's reading, and no state."""

import json
import os
from dataclasses import replace
from typing import Any

import pytest
import torch

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")

from mi_lens.common.records import read_record, read_records
from mi_lens.generation.engines.trace_numbers import Compared
from mi_lens.generation.engines.vllm_engine import VLLMEngine
from mi_lens.generation.engines.vllm_worker.watch import Watch
from mi_lens.generation.generate import generate
from mi_lens.generation.request import Request
from mi_lens.information.per_trace.hsic import hsic_mi
from mi_lens.information.per_trace.readouts import answer_probability
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.gate import Gate
from mi_lens.interventions.recycle import Recycle
from mi_lens.interventions.sampling import Sampling
from mi_lens.interventions.steer import Steer
from mi_lens.interventions.suppress import Suppress
from mi_lens.models.loading import load
from mi_lens.problems.loading import load_problems
from mi_lens.runs.analyze import analyze
from mi_lens.runs.config import AnalyzeConfig
from mi_lens.runs.settings import RunSettings
from mi_lens.states.answer_state import answer_state, answer_tokens
from mi_lens.states.capture import capture

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

NAME = "pocket-reasoner"
HOOKS = ["blocks.*.hook_resid_post", "blocks.1.hook_resid_pre"]
SITES = [{}, {"site": "answer_mean"}, {"site": "answer_last", "template": True}]
CHUNK = 16  # Positions of a text in a step; prompts and traces take several.
WORDS = ["Wait", "Hmm", "So"]


@pytest.fixture(scope="module")
def model():
    return load(NAME, dtype="float32")


@pytest.fixture(scope="module")
def traces(model):
    vector = torch.randn(128, generator=torch.Generator().manual_seed(0))
    parts = [
        (),
        (Recycle(1, WORDS),),
        (Recycle(0, WORDS, trigger="consumed"),),
        (Recycle(2, WORDS, passes=2, kv="keep", trigger="consumed"),),
        (Recycle(1, WORDS, kv="keep", probability=0.5),),
        (Recycle((0, 2), WORDS, passes=2, trigger="consumed", damping=0.5),),
        (Gate(Recycle((1, 2), WORDS), entropy=0.3), Gate(Suppress(["Hmm"]), times=9)),
        (Steer(vector, "blocks.1.hook_resid_post", alpha=0.3, at=WORDS),),
        (Steer(vector, "blocks.1.hook_resid_pre", alpha=0.1, at="all", prompt=True),),
        (
            Suppress(["Wait"]),
            Recycle(1, WORDS),
            Steer(vector, "blocks.2.hook_resid_post", at=WORDS),
        ),
    ]
    conditions = [*map(Condition, parts), Condition(parts[-1], Sampling(0.9))]
    requests = [
        Request(problem, condition, seed=seed, max_new_tokens=90)
        for seed, problem in enumerate(load_problems("pocket", limit=2))
        for condition in conditions
    ]
    found = generate(model, requests, progress=False)
    kinds = [{event["what"] for event in trace.events} for trace in found]
    assert sum("recycle" in kind for kind in kinds) > 4
    assert sum("steer" in kind for kind in kinds) > 2
    return found


@pytest.fixture(scope="module")
def read(model, traces):
    """What TransformerLens reads of the traces: MI with several answers, and the logit lens."""
    states = capture(model, traces, HOOKS)
    answers = {
        problem: [answer_state(model, problem, HOOKS, **site) for site in SITES]
        for problem in {trace.problem for trace in traces}
    }
    mi = [
        {
            name: hsic_mi(of, torch.stack([each[name] for each in answers[trace.problem]])).numpy()
            for name, of in by_name.items()
        }
        for trace, by_name in zip(traces, states, strict=True)
    ]
    lens = [answer_probability(model, *pair) for pair in zip(traces, states, strict=True)]
    return mi, lens


# The cache has room for about three traces of the sixteen that vLLM may begin.
SMALL: dict[str, Any] = {
    "dtype": "float32",
    "long_prefill_token_threshold": CHUNK,
    "max_num_batched_tokens": 8 * CHUNK,
    "max_num_seqs": 16,
    "max_model_len": 256,
    "block_size": 32,
    "num_gpu_blocks_override": 12,
    "disable_log_stats": False,
}


@pytest.fixture(scope="module")
def engine():
    made = VLLMEngine(NAME, **SMALL)
    yield made
    made.close()


def answers_of(model, traces):
    return [[answer_tokens(model.tokenizer, t.problem, **site) for site in SITES] for t in traces]


def alike(mi):
    """Within float32's error. Where MI is small, it is a difference of larger numbers."""
    return pytest.approx(mi, rel=1e-3, abs=1e-4 * mi.max())


def require_equal(found, read):
    for numbers, mi, lens in zip(found, *read, strict=True):
        assert numbers.mi.keys() == mi.keys() == lens.keys() == numbers.probability.keys()
        for name in mi:
            assert numbers.mi[name] == alike(mi[name])
            assert numbers.probability[name] == pytest.approx(lens[name], rel=1e-3, abs=1e-5)


def test_numbers_are_those_of_captured_states(model, engine, traces, read):
    """At every block, after recycling and steering, in chunks, and with texts that vLLM drops."""
    require_equal(engine.trajectories(traces, HOOKS, answers_of(model, traces)), read)
    (dropped,) = (m for m in engine._llm.get_metrics() if m.name == "vllm:num_preemptions")
    assert dropped.value > 2


def test_interventions_act_again(model, traces, read):
    """Without them the numbers are others, so the comparison above would show it."""
    acting = {"recycle", "steer"}  # what changes states
    changed = [k for k, t in enumerate(traces) if acting & {e["what"] for e in t.events}]
    states = capture(model, [traces[k] for k in changed], HOOKS[0], condition=None)
    for k, by_name in zip(changed, states, strict=True):
        last = list(by_name)[-1]
        answer = answer_state(model, traces[k].problem, last)[last]
        mi = hsic_mi(by_name[last], answer).numpy()
        there = read[0][k][last][:, 0]
        assert mi != alike(there)


def test_few_states_are_held_at_once(model, engine, traces, read, monkeypatch):
    """With room for one hook name, a trace is read once for each, and held states stay within."""
    longest = max(map(len, traces)) * 128 * 4
    monkeypatch.setattr("mi_lens.states.by_hook.HELD", longest)
    watches, most, see = set(), 0, Watch.see

    def spy(watch, *args):
        nonlocal most
        see(watch, *args)
        watches.add(watch)
        held = [state for each in watches for state in each.states.values()]
        most = max(most, sum(state.numel() * 4 for state in held))

    monkeypatch.setattr(Watch, "see", spy)
    found = engine.trajectories(traces[:4], HOOKS, answers_of(model, traces[:4]))
    require_equal(found, (read[0][:4], read[1][:4]))
    assert 0 < most <= longest
    assert len([watch for watch in watches if watch.trace]) == 4 * len(read[0][0])


def test_what_vllm_has_in_its_cache_is_read_all_the_same(model, engine, traces, read):
    """The engine wrote the same tokens, and read them before."""
    places = 0, len(traces) // 2  # without interventions
    again = [Request(traces[k].problem, seed=traces[k].seed, max_new_tokens=90) for k in places]
    written = generate(engine, again, progress=False)
    found = engine.trajectories(written, HOOKS, answers_of(model, written))
    assert [t.token_ids for t in written] == [traces[k].token_ids for k in places]
    require_equal(found, tuple([of[k] for k in places] for of in read))


def test_few_bytes_go_over_the_wire(model, engine, traces, monkeypatch):
    """JSON of the wanted numbers: no state, which would take 512 bytes per step and hook name."""
    sizes, inner = {}, engine._llm.llm_engine.collective_rpc

    def counted(method, args=()):
        answers = inner(method, args=args)
        assert all(isinstance(text, str) for text in [*args, *answers])
        sizes[method] = sizes.get(method, 0) + sum(map(len, [*args, *answers]))
        return answers

    monkeypatch.setattr(engine._llm.llm_engine, "collective_rpc", counted)
    one = traces[:1]
    engine.trajectories(one, HOOKS, [[answer_tokens(model.tokenizer, one[0].problem)]])
    hooks = 5
    numbers = 2 * len(one[0]) * hooks  # One MI and one probability of every state.
    assert sum(sizes.values()) < 24 * numbers + 1500
    assert sizes["mi_lens_keep_answers"] < 100
    assert json.loads(inner("mi_lens_forget_answers", args=("[]",))[0]) == 0  # None is left.


def test_nothing_is_kept_where_reading_stops(engine, traces):
    answer = answer_tokens(engine.model.tokenizer, traces[0].problem)
    measuring = engine.measure(traces, [Compared(answer)] * len(traces), "blocks.1.hook_resid_post")
    assert next(measuring).keys() == {"blocks.1.hook_resid_post"}
    assert engine._llm.llm_engine.has_unfinished_requests()
    measuring.close()
    assert not engine._llm.llm_engine.has_unfinished_requests()
    (left,) = engine._llm.llm_engine.collective_rpc("mi_lens_forget_answers", args=("[]",))
    assert left == "0"


def rounded(value):
    """JSON with its numbers as they are within float32's error."""
    return pytest.approx(value, rel=2e-3, abs=1e-4) if isinstance(value, float) else value


def require_alike(one, other, where=""):
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            require_alike(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list):
        if one and all(isinstance(value, float) for value in one):
            scale = max(map(abs, one))
            assert other == pytest.approx(one, rel=2e-3, abs=1e-3 * scale), where
        else:
            assert len(one) == len(other), where
            for place, pair in enumerate(zip(one, other, strict=True)):
                require_alike(*pair, f"{where}[{place}]")
    else:
        assert other == rounded(one), where


@pytest.mark.slow
def test_analyze_writes_the_same_files(tmp_path, monkeypatch):
    config = AnalyzeConfig(
        out=tmp_path / "model",
        limit=3,
        max_new_tokens=80,
        engine="vllm",
        engine_options=(f"long_prefill_token_threshold={CHUNK}",),
        keep_states=False,
        hook_names=("blocks.*.hook_resid_post",),
        site="answer_mean",
        intervene=("Recycle(1, ['Wait', 'So'])",),
    )
    analyze(config, progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(RunSettings, "load_model", None)
        engine_read = replace(config, out=tmp_path / "engine", read_with="engine")
        found = analyze(engine_read, progress=False)
    assert any(trace.events for trace in found.traces)
    files = {path.name for path in (tmp_path / "model").glob("*.json*")}
    assert files == {path.name for path in (tmp_path / "engine").glob("*.json*")}
    assert files >= {"readings.jsonl", "peaks.json", "controls.json", "thinking_tokens.json"}
    for name in ("traces.jsonl", "readings.jsonl"):
        mine, theirs = (list(read_records(tmp_path / of / name)) for of in ("engine", "model"))
        require_alike(theirs, mine, name)
    for name in ("peaks.json", "controls.json", "thinking_tokens.json"):
        mine, theirs = (read_record(tmp_path / of, name) for of in ("engine", "model"))
        require_alike(theirs, mine, name)
    assert "reader" not in read_record(tmp_path / "engine")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_in_processes_of_its_own(model, traces, read, monkeypatch, workers):
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    if workers == 2:
        if len(cores := sorted(os.sched_getaffinity(0))) < 2:
            pytest.skip("two workers want two cores")
        monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", f"{cores[0]}|{cores[1]}")
    engine = VLLMEngine(NAME, **SMALL, tensor_parallel_size=workers)
    try:
        found = engine.trajectories(traces[:9], HOOKS, answers_of(model, traces[:9]))
    finally:
        engine.close()
    require_equal(found, (read[0][:9], read[1][:9]))


def test_what_cannot_be_measured_is_refused(model, engine, traces, monkeypatch):
    def measured(traces, names=HOOKS):
        return engine.trajectories(traces, names)

    with pytest.raises(ValueError, match=r"'blocks.1.attn.hook_z': on vLLM only the residual"):
        measured(traces, ["blocks.1.attn.hook_z"])
    with pytest.raises(ValueError, match="no traces to capture"):
        measured([])
    strange = replace(traces[0], condition={**traces[0].condition, "hooks": "mine, v1"})
    with pytest.raises(ValueError, match="generated under hooks, 'mine, v1'"):
        measured([strange])
    elsewhere = Condition((Steer(torch.ones(128), "blocks.1.hook_attn_out", at="all"),))
    (other,) = generate(
        model, [Request(traces[0].problem, elsewhere, max_new_tokens=3)], progress=False
    )
    with pytest.raises(ValueError, match=r"was written under steering at .* mi_lens.capture"):
        measured([other])
    limit = engine.model.cfg.n_ctx
    with monkeypatch.context() as patch:
        patch.setattr(engine.model.cfg, "n_ctx", 20)
        with pytest.raises(ValueError, match="expected fewer than 20, the engine's max_model_len"):
            measured(traces[:1])
    assert engine.model.cfg.n_ctx == limit
    monkeypatch.setattr(engine, "_staged", True)
    with pytest.raises(ValueError, match="use tensor_parallel_size"):
        measured(traces)
