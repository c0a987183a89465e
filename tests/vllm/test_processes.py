"""vLLM in processes of its own: the same tokens, and what happens if one of them dies."""

import os
import signal
import threading
import time

import pytest

from mi_lens.common.records import read_records
from mi_lens.generation.engines.lookup import load_engine
from mi_lens.generation.generate import generate
from mi_lens.generation.plan import Plan
from mi_lens.generation.request import Request
from mi_lens.generation.resume import generate_into
from mi_lens.models.loading import load
from tests.vllm.cases import requests_of, words_of
from tests.vllm.running import require_gone, vllm_processes
from tests.vllm.test_equality import QUESTIONS
from tests.vllm.test_refusals import broken
from tests.vllm.ties import require_ties

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

SETTINGS = {"dtype": "float32", "max_num_seqs": 8}


@pytest.fixture(autouse=True)
def _in_processes(monkeypatch):
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")


@pytest.fixture(scope="module")
def folder(tiny):
    return str(tiny("qwen3"))


def compare(folder, engine):
    model = load(folder, dtype="float32")
    words = words_of(model, generate(model, QUESTIONS, max_new_tokens=30, progress=False))
    requests = requests_of(model, QUESTIONS[:9], words)
    ours = generate(model, requests, batch_size=64, progress=False)
    theirs = generate(engine, requests, progress=False)
    require_ties(load(folder, dtype="float64"), requests, ours, theirs)


def test_the_same_tokens(folder):
    engine = load_engine(folder, **SETTINGS)
    workers = vllm_processes()
    assert len(workers) >= 2
    compare(folder, engine)
    engine.close()
    require_gone(workers)


def test_layers_cut_in_two(folder, monkeypatch):
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("two workers want two cores")
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", f"{cores[0]}|{cores[1]}")
    engine = load_engine(folder, tensor_parallel_size=2, **SETTINGS)
    workers = vllm_processes()
    assert len(workers) >= 3
    compare(folder, engine)
    engine.close()
    require_gone(workers)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("which", ["Worker", "EngineCore"])
def test_a_process_that_dies_while_it_generates(folder, tmp_path, which):
    requests = [
        Request(question, max_new_tokens=20 + 5 * i) for i, question in enumerate(QUESTIONS)
    ]
    path = tmp_path / "traces.jsonl"
    engine = load_engine(folder, **SETTINGS)
    workers = vllm_processes()
    (victim,) = (worker for worker in workers if which in " ".join(worker.cmdline()))

    def kill():
        while not path.exists() or path.read_bytes().count(b"\n") < 3:
            time.sleep(0.005)
        victim.send_signal(signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(RuntimeError, match=r"a process of the engine vllm 0.32.* died.*are kept"):
        generate_into(tmp_path, Plan(engine), requests, batch_size=8, progress=False)
    thread.join()
    require_gone(workers)
    kept = [row["id"] for row in read_records(path)]
    assert 3 <= len(kept) < len(requests)
    with pytest.raises(RuntimeError, match="was closed; load it again"):
        generate(engine, requests[:1], progress=False)
    engine.close()
    if which == "Worker":
        return
    again = load_engine(folder, **SETTINGS)
    traces = generate_into(tmp_path, Plan(again), requests, batch_size=8, progress=False)
    again.close()
    assert [row["id"] for row in read_records(path)][: len(kept)] == kept
    ours = generate(load(folder, dtype="float32"), requests, progress=False)
    require_ties(load(folder, dtype="float64"), requests, ours, traces)


def test_weights_that_are_no_numbers(folder, tmp_path):
    folder = broken(folder, tmp_path)
    with pytest.raises(ValueError, match=r"the logits at step 0 hold nan"):
        generate(load_engine(folder, **SETTINGS), ["q"], progress=False)
    require_gone(vllm_processes())


def test_a_cache_too_small(folder):
    with pytest.raises(ValueError, match=r"max_model_len=256.*smaller max_model"):
        load_engine(folder, num_gpu_blocks_override=1, block_size=32, **SETTINGS)
    require_gone(vllm_processes())
