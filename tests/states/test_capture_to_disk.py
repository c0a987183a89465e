import errno
import random
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from experiments.timings.memory import growth_mb
from mi_lens.common import records
from mi_lens.common.files import _writer
from mi_lens.common.records import DamagedError
from mi_lens.generation.generate import generate
from mi_lens.models.backends.lookup import available
from mi_lens.models.fingerprint import model_fingerprint
from mi_lens.states import capture_to_disk as stores
from mi_lens.states import segments as streaming
from mi_lens.states.capture import capture
from mi_lens.states.capture_to_disk import capture_into
from mi_lens.states.shard import Origin, held_names, load_activations
from mi_lens.states.shard_writer import DTYPES, new_shard
from tests.processes import result_of

HOOKS = ["blocks.0.hook_resid_pre", "blocks.1.mlp.hook_post", "blocks.2.hook_resid_post"]
QUESTIONS = ["What is 12 * 7 - 5?", "Hi", "A farmer has 37 boxes with 48 apples each"]


@pytest.fixture(scope="module")
def traces(tiny_model):
    return [
        generate(tiny_model, [question], max_new_tokens=5 + 7 * i, progress=False)[0]
        for i, question in enumerate(QUESTIONS)
    ]


@pytest.mark.parametrize(("segment", "batch_size"), [(512, 1), (3, 2), (1, 3)])
def test_on_disk_is_what_capture_returns(
    tiny_model, traces, tmp_path, monkeypatch, segment, batch_size
):
    expected = capture(tiny_model, traces, HOOKS)
    monkeypatch.setattr(streaming, "SEGMENT", segment)
    paths = capture_into(tiny_model, traces, HOOKS, tmp_path, batch_size=batch_size)
    for path, states in zip(paths, expected, strict=True):
        read = load_activations(path)
        assert read.keys() == set(HOOKS)
        assert read[HOOKS[1]].shape[1] == 48
        for name in HOOKS:
            torch.testing.assert_close(read[name], states[name], rtol=1e-10, atol=1e-10)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in paths}


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 18), min_size=1, unique=True).map(sorted), st.integers(1, 40))
def test_chosen_steps_are_rows_of_all_steps(tiny_model, traces, chosen, segment):
    (whole,) = capture(tiny_model, traces[2:], HOOKS)
    before, streaming.SEGMENT = streaming.SEGMENT, segment
    try:
        (rows,) = capture(tiny_model, traces[2:], HOOKS, steps=[chosen])
    finally:
        streaming.SEGMENT = before
    for name in HOOKS:
        torch.testing.assert_close(rows[name], whole[name][chosen], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("wrong", [[], [3, 3], [4, 2], [-1], [0, 19]])
def test_steps_that_are_none_are_named(tiny_model, traces, wrong):
    with pytest.raises(ValueError, match=rf"trace {traces[2].id}: steps.*from 0 to 18"):
        capture(tiny_model, traces[2:], HOOKS, steps=[wrong])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtype_of_choice(tiny_model, traces, tmp_path, dtype):
    (path,) = capture_into(tiny_model, traces[:1], HOOKS, tmp_path, dtype=dtype)
    (expected,) = capture(tiny_model, traces[:1], HOOKS)
    for name, state in load_file(path).items():
        assert torch.equal(state, expected[name].to(dtype))
    with pytest.raises(ValueError, match=f"dtype is '{str(dtype)[6:]}', not 'float64'"):
        capture_into(tiny_model, traces[:1], HOOKS, tmp_path)


def test_what_is_there_is_not_read_again(tiny_model, traces, tmp_path, monkeypatch):
    capture_into(tiny_model, traces[:2], HOOKS[:2], tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    seen = []
    stream = stores.stream_states

    def watched(model, sequences, names, *rest):
        seen.append((len(sequences), list(names)))
        stream(model, sequences, names, *rest)

    monkeypatch.setattr(stores, "stream_states", watched)
    paths = capture_into(tiny_model, traces, HOOKS[:2], tmp_path)
    assert seen == [(1, HOOKS[:2])]
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    # One more hook name: what was kept stays, in the same file.
    capture_into(tiny_model, traces[:1], HOOKS[2:], tmp_path)
    assert load_activations(paths[0]).keys() == set(HOOKS)


def test_a_truncated_shard_is_set_aside_and_made_again(tiny_model, traces, tmp_path):
    (path,) = capture_into(tiny_model, traces[:1], HOOKS, tmp_path)
    whole = path.read_bytes()
    for kept in (0, 5, 200, len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(DamagedError, match="not a whole safetensors file"):
            load_activations(path)
        with pytest.warns(UserWarning, match=f"{path.name}.*set aside"):
            capture_into(tiny_model, traces[:1], HOOKS, tmp_path)
        assert path.read_bytes() == whole
    aside = sorted(tmp_path.glob("*.damaged"))
    assert sorted(len(file.read_bytes()) for file in aside) == [0, 5, 200, len(whole) - 1]


def test_a_flipped_bit_of_a_shard_is_noticed(tiny_model, traces, tmp_path):
    (path,) = capture_into(tiny_model, traces[:1], HOOKS, tmp_path)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    dice = random.Random(0)
    places = [*range(header), *(dice.randrange(header, len(whole)) for _ in range(200))]
    origin = Origin.of(traces[0], model_fingerprint(tiny_model), torch.float64)
    for place in places:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << dice.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(DamagedError, match=path.name):
            load_activations(path)
        with pytest.raises(DamagedError, match=path.name):
            held_names(path, origin)
    with pytest.warns(UserWarning, match="altered since they were written.*set aside"):
        capture_into(tiny_model, traces[:1], HOOKS, tmp_path)
    assert path.read_bytes() == whole


def test_states_of_another_origin_are_neither_used_nor_lost(
    tiny_model, traces, tmp_path, monkeypatch
):
    (path,) = capture_into(tiny_model, traces[:1], HOOKS, tmp_path)
    whole = path.read_bytes()
    other_tokens = replace(traces[0], token_ids=traces[0].token_ids[::-1])

    def refused(trace, message):
        with pytest.raises(ValueError, match=message) as error:
            capture_into(tiny_model, [trace, traces[1]], HOOKS, tmp_path)
        assert path.name in str(error.value)
        assert path.read_bytes() == whole
        assert len(list(tmp_path.iterdir())) == 1

    refused(other_tokens, r"tokens is '\w+', not '\w+'")
    with monkeypatch.context() as patch:
        patch.setattr("mi_lens.states.shard.capture_code", lambda: "mi-lens 99")
        refused(traces[0], "code is 'mi-lens .*', not 'mi-lens 99'")
    weight = tiny_model.blocks[1].mlp.W_in
    kept = weight.clone()
    try:
        weight.mul_(2)
        refused(traces[0], r"model is '\w+', not '\w+'")
    finally:
        weight.copy_(kept)
    origin = Origin.of(traces[0], model_fingerprint(tiny_model), torch.float64)
    assert load_activations(path, origin=origin).keys() == set(HOOKS)
    with pytest.raises(ValueError, match="holds other states"):
        load_activations(path, origin=replace(origin, model="another"))
    with pytest.raises(ValueError, match=r"capture these too"):
        load_activations(path, ["blocks.1.hook_resid_pre"])


def test_a_state_that_a_dtype_cannot_hold_is_named(tiny_model, traces, tmp_path):
    def grow(states, hook):
        states[:, -1, 3] = 1e6
        return states

    hooked = [replace(traces[0], condition={"hooks": "grow, v1"})]
    with tiny_model.hooks(fwd_hooks=[(HOOKS[2], grow)]):
        with pytest.raises(ValueError, match=r"blocks\.2.* step 4 is not finite in torch\.float16"):
            capture_into(tiny_model, hooked, HOOKS[2:], tmp_path, dtype=torch.float16)
        assert not list(tmp_path.iterdir())
        capture_into(tiny_model, hooked, HOOKS[2:], tmp_path, dtype=torch.bfloat16)


def full_disk():
    """From now on no file of this process grows beyond 30,000 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room_is_taken_first", [True, False])
def test_a_full_disk_loses_nothing(tiny_model, traces, tmp_path, monkeypatch, room_is_taken_first):
    if not room_is_taken_first:
        monkeypatch.setattr("mi_lens.states.shard_writer._take_room", lambda file, size: None)
    long = replace(traces[2], id="long", token_ids=traces[2].token_ids * 10)
    undo = full_disk()
    try:
        with pytest.raises(
            OSError, match=r"long\.safetensors.*MB free.*run the same again"
        ) as error:
            capture_into(tiny_model, [traces[0], long], HOOKS, tmp_path)
    finally:
        undo()
    assert error.value.errno == errno.EFBIG
    # The trace before is whole, nothing is left of the one that did not fit.
    assert [path.stem for path in tmp_path.iterdir()] == [traces[0].id]
    paths = capture_into(tiny_model, [traces[0], long], HOOKS, tmp_path)
    assert load_activations(paths[1])[HOOKS[0]].shape == (len(long), 32)


def test_a_row_that_does_not_fit_leaves_no_part(tmp_path):
    path = tmp_path / "rows.jsonl"
    records.append_record(path, {"n": 1})
    undo = full_disk()
    try:
        with pytest.raises(OSError, match=r"rows\.jsonl"):
            records.append_record(path, {"n": 2, "filler": "x" * 50_000})
        records.append_record(path, {"n": 3})
    finally:
        undo()
    assert records.read_records(path) == [{"n": 1}, {"n": 3}]


@pytest.mark.parametrize(
    ("dtype", "parts", "message"),
    [
        (torch.float32, [2], r"only so many steps were written: \{'a': 2\}"),
        (torch.float32, [2, 2], r"shape \(2, 2\) after 2 steps; expected at most 1"),
        (torch.int8, [], r"dtype torch\.int8"),
    ],
)
def test_a_shard_must_be_filled(tmp_path, dtype, parts, message):
    def fill():
        with new_shard(tmp_path / "a.safetensors", {"a": (3, 2)}, dtype, {}) as shard:
            for part in parts:
                shard.append("a", torch.ones(part, 2))

    with pytest.raises(ValueError, match=message):
        fill()
    assert not list(tmp_path.iterdir())


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4)), min_size=1, max_size=4),
    st.sampled_from(list(DTYPES)),
)
def test_safetensors_itself_reads_a_shard(tmp_path_factory, sizes, dtype):
    path = tmp_path_factory.mktemp("s") / "a.safetensors"
    states = {
        f"é{i}": torch.randn(*size, dtype=torch.float64).to(dtype) for i, size in enumerate(sizes)
    }
    shapes = {name: (state.shape[0], state.shape[1]) for name, state in states.items()}
    with new_shard(path, shapes, dtype, {"who": "me"}) as shard:
        for name, state in states.items():
            for part in state.split(2):
                shard.append(name, part)
    read = load_file(path)
    assert read.keys() == states.keys()
    for name, state in states.items():
        assert torch.equal(read[name], state)


def test_what_a_kill_leaves_is_no_shard_and_is_cleared_away(tiny_model, traces, tmp_path):
    program = (
        "import os, signal, sys, torch; from mi_lens.states.shard_writer import new_shard\n"
        "with new_shard(sys.argv[1], {'a': (3, 2)}, torch.float32, {}) as shard:\n"
        "    shard.append('a', torch.ones(3, 2)); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / f"{traces[0].id}.safetensors"
    killed = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.suffix == ".partial"
    origin = Origin.of(traces[0], model_fingerprint(tiny_model), torch.float64)
    assert held_names(path, origin) == []
    elsewhere = left.with_name(left.name.replace(f".{_writer().split('+')[0]}+", ".elsewhere+"))
    elsewhere.write_bytes(b"may still be written")
    mine = left.with_name(f".b.safetensors.{_writer()}.x1.partial")
    mine.write_bytes(b"is still written")
    capture_into(tiny_model, traces[:1], HOOKS, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {path.name, elsewhere.name, mine.name}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells a peak")
@pytest.mark.skipif("hooked" not in available(), reason="measured on HookedTransformer")
@pytest.mark.slow
def test_peak_memory_does_not_grow_with_hook_names():
    """Of 24 layers, 5,000 x 256 float32 each, which are 123 MB together."""
    peak = {hooks: result_of(growth_mb, "streamed", 24, 5000, hooks) for hooks in (1, 24)}
    assert peak[1] > 10  # The measurement must see at least the key-value cache.
    assert peak[24] - peak[1] < 60  # The allocator alone may change a peak by about 30.
