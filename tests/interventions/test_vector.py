import json
import math
import os
import struct

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors import safe_open
from safetensors.torch import save_file

from mi_lens.interventions.gguf import block_outputs, load_gguf, save_gguf
from mi_lens.interventions.steer import Steer
from mi_lens.interventions.vector import SteeringVector, load_vectors, save_vectors
from mi_lens.problems.problem import Problem

PROBLEM = Problem("math/7", "What is  12 * 7?", "84")
OLD_KEY = "631dcb811f33b888"  # of PROBLEM
EXECUTION, REFLECTION, TRANSITION = 59_383, 25_827, 7_501  # thoughts behind the real files


def vector(hook_name: str = "blocks.19.hook_resid_post", **changes) -> SteeringVector:
    fields = {
        "vector": torch.arange(6.0),
        "model": "0123456789abcdef",
        "recipe": "E-RT",
        "rule": "seal",
        "counts": {"execution": 3, "reflection": 2, "transition": 1},
        "problems": {PROBLEM.key: PROBLEM.id},
        "reliability": 0.98,
    }
    return SteeringVector(hook_name, **(fields | changes))


def same(a: SteeringVector, b: SteeringVector) -> bool:
    mine, other = vars(a) | {"vector": None}, vars(b) | {"vector": None}
    return mine == other and a.vector.dtype == b.vector.dtype and a.vector.equal(b.vector)


def test_reading():
    v = vector()
    assert v.norm == pytest.approx(55**0.5)
    assert v.problem_ids == ("math/7",)
    assert repr(v) == (
        "SteeringVector(E-RT at blocks.19.hook_resid_post, d=6, norm 7.416, reliability 0.980; "
        "3 execution, 2 reflection, 1 transition by rule 'seal' from 1 problems of model "
        "0123456789abcdef)"
    )
    assert "reliability undefined" in repr(vector(reliability=None))


def test_overlap_is_of_questions_not_of_ids():
    others = [Problem("math/7", "What is 12 * 8?", "96"), Problem("x", "Why?", "so")]
    vector().check_unused(others)
    same_question = Problem("aime/1", "what is 12 * 7?\n", "84")
    with pytest.raises(ValueError, match=r"1 of 3 problems.*'aime/1' first.*allow_overlap=True"):
        vector().check_unused(iter([*others, same_question]))


def test_the_same_question_in_other_latex_is_refused():
    written = Problem("a", r"Find $\frac{1}{2} x$.", "1")
    other = Problem("b", r"Find $\dfrac{1}{2}x$", "1")
    own = vector(problems={written.key: written.id})
    with pytest.raises(ValueError, match=r"1 of 1 problems.*'b' first"):
        own.check_unused([other])


def test_a_file_with_keys_of_the_old_form_refuses_its_problems(tmp_path):
    """The key is one that `mi_lens` wrote before keys left LaTeX's layout out."""
    path = tmp_path / "v.safetensors"
    vector(problems={OLD_KEY: PROBLEM.id}).save(path)
    read = SteeringVector.load(path)
    assert PROBLEM.key != OLD_KEY
    same_question = Problem("aime/1", "what is 12 * 7?\n", "84")
    with pytest.raises(ValueError, match=r"1 of 1 problems.*'aime/1' first"):
        read.check_unused([same_question])
    read.check_unused([Problem("math/8", "What is 12 * 8?", "96")])
    steer = Steer(str(path))
    assert steer.made_from == (OLD_KEY,)
    with pytest.raises(ValueError, match="problem aime/1 is one of those"):
        steer.check(same_question)


def test_several_in_one_file(tmp_path):
    path = tmp_path / "deep" / "vectors.safetensors"
    rows = torch.randn(3, 6, dtype=torch.float64)
    written = [
        vector("blocks.10.hook_resid_post", vector=rows[0], reliability=None),
        vector("blocks.2.hook_resid_post", vector=rows[:, 1], recipe="E-R-T", problems={}),
    ]
    save_vectors(written, path)
    read = load_vectors(path)
    assert list(read) == ["blocks.2.hook_resid_post", "blocks.10.hook_resid_post"]
    for v in written:
        assert same(v, read[v.hook_name])
    with safe_open(path, "pt") as file:
        metadata = json.loads(file.metadata()["blocks.2.hook_resid_post"])
    assert metadata["recipe"] == "E-R-T"
    with pytest.raises(ValueError, match="holds 2 vectors"):
        SteeringVector.load(path)


@given(
    arrays.arrays(np.float32, st.integers(1, 9), elements=st.floats(width=32)),
    st.dictionaries(st.text(), st.text(), max_size=3),
    st.none() | st.floats(-1, 1),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_round_trip(tmp_path, values, problems, reliability):
    values = np.nan_to_num(values)
    v = vector(vector=torch.from_numpy(values), problems=problems, reliability=reliability)
    v.save(tmp_path / "v.safetensors")
    assert same(v, SteeringVector.load(tmp_path / "v.safetensors"))


def test_what_cannot_be_saved(tmp_path):
    path = tmp_path / "v.safetensors"
    with pytest.raises(ValueError, match="no vectors"):
        save_vectors([], path)
    with pytest.raises(ValueError, match=r"two vectors at 'blocks.19"):
        save_vectors([vector(), vector()], path)
    assert not path.exists()


def test_bad_files(tmp_path):
    path = tmp_path / "v.safetensors"
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_vectors(path)
    vector().save(path)
    whole = path.read_bytes()
    for damaged in (b"", whole[:40], whole[:-1], b"\0" * 100):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="not a whole file of steering vectors"):
            load_vectors(path)
    for place in range(8, len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match="not a whole file of steering vectors"):
            load_vectors(path)
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="expected what save_vectors writes"):
        load_vectors(path)
    save_file({"a": torch.zeros(3)}, path, {"a": json.dumps({"recipe": "E-RT"})})
    with pytest.raises(ValueError, match="expected what save_vectors writes"):
        load_vectors(path)


# GGUF


def test_gguf_round_trip(tmp_path):
    path = tmp_path / "v.gguf"
    rows = torch.randn(4, 33)
    directions = {11: rows[0], 2: rows[1:, :].T[:, 0], 0: torch.randn(33, dtype=torch.float64)}
    directions = {n: d for n, d in directions.items() if len(d) == 33} | {2: rows[3]}
    save_gguf(directions, path, model_hint="qwen2")
    read = load_gguf(path)
    assert list(read) == [0, 2, 11]
    for block, direction in directions.items():
        assert read[block].dtype == torch.float32
        assert read[block].equal(direction.float())
        read[block] += 1  # The caller's own, not a view of the file.
    assert load_gguf(path)[2].equal(rows[3])


def test_gguf_as_other_engines_read_it(tmp_path):
    """The bytes, parsed here by the format's specification (GGUF 3, little-endian)."""
    path = tmp_path / "v.gguf"
    save_gguf({1: torch.arange(3.0), 2: -torch.arange(3.0)}, path, model_hint="qwen2")
    data = path.read_bytes()
    at = 0

    def take(form: str):
        nonlocal at
        (value,) = struct.unpack_from("<" + form, data, at)
        at += struct.calcsize("<" + form)
        return value

    def string() -> str:
        nonlocal at
        length = take("Q")
        at += length
        return data[at - length : at].decode()

    assert data[:4] == b"GGUF"
    at = 4
    version, tensors, fields = take("I"), take("Q"), take("Q")
    assert (version, tensors) == (3, 2)
    metadata = {}
    for _ in range(fields):
        name, kind = string(), take("I")
        metadata[name] = string() if kind == 8 else take({4: "I", 5: "i"}[kind])
    assert metadata == {
        "general.architecture": "controlvector",
        "controlvector.model_hint": "qwen2",
        "controlvector.layer_count": 2,
    }
    infos = [(string(), [take("Q") for _ in range(take("I"))], take("I"), take("Q")) for _ in "12"]
    start = -(-at // 32) * 32  # Tensors begin at the next multiple of the alignment.
    for (name, shape, kind, offset), sign in zip(infos, (1, -1), strict=True):
        assert (name, shape, kind) == (f"direction.{1 if sign == 1 else 2}", [3], 0)  # 0 is F32
        values = np.frombuffer(data, "<f4", 3, start + offset)
        assert values.tolist() == [0, sign, 2 * sign]


def test_vectors_to_gguf():
    v = vector("blocks.19.hook_resid_post")
    assert block_outputs([v]) == {19: v.vector}
    with pytest.raises(ValueError, match=r"'blocks.20.hook_resid_pre' is no block's output"):
        block_outputs([vector("blocks.20.hook_resid_pre")])
    with pytest.raises(ValueError, match=r"two vectors at 'blocks.19.hook_resid_post'"):
        block_outputs([v, v])


def test_steering_vectors_are_exported_as_they_are(tmp_path):
    path = tmp_path / "v.gguf"
    vectors = {
        name: vector(name, vector=torch.randn(6))
        for name in ("blocks.19.hook_resid_post", "blocks.2.hook_resid_post")
    }
    save_gguf(vectors.values(), path)
    read = load_gguf(path)
    assert list(read) == [2, 19]
    assert read[2].equal(vectors["blocks.2.hook_resid_post"].vector)
    assert read[19].equal(vectors["blocks.19.hook_resid_post"].vector)
    with pytest.raises(ValueError, match="no directions"):
        save_gguf([], path)


def test_bad_directions(tmp_path):
    path = tmp_path / "v.gguf"
    with pytest.raises(ValueError, match="no directions"):
        save_gguf({}, path)
    with pytest.raises(ValueError, match="block -1"):
        save_gguf({-1: torch.zeros(3)}, path)
    with pytest.raises(ValueError, match=r"shapes \[\(3,\), \(4,\)\]"):
        save_gguf({1: torch.zeros(3), 2: torch.zeros(4)}, path)
    assert not path.exists()


def write_gguf(path, architecture: str, tensors: dict[str, np.ndarray]) -> None:
    from gguf import GGUFWriter

    writer = GGUFWriter(path, architecture)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize(
    ("architecture", "tensors", "message"),
    [
        ("llama", {"direction.1": np.zeros(4, np.float32)}, "architecture 'llama' with 1"),
        ("controlvector", {}, "with 0 tensors"),
        ("controlvector", {"output.weight": np.zeros(4, np.float32)}, "tensor 'output.weight'"),
        ("controlvector", {"direction.x": np.zeros(4, np.float32)}, "tensor 'direction.x'"),
        ("controlvector", {"direction.1": np.zeros((2, 4), np.float32)}, r"shape \(2, 4\)"),
        ("controlvector", {"direction.1": np.zeros(4, np.int32)}, "type int32"),
    ],
)
def test_other_gguf(tmp_path, architecture, tensors, message):
    path = tmp_path / "v.gguf"
    write_gguf(path, architecture, tensors)
    with pytest.raises(ValueError, match=message):
        load_gguf(path)


def test_gguf_in_half_precision(tmp_path):
    write_gguf(tmp_path / "v.gguf", "controlvector", {"direction.3": np.ones(4, np.float16)})
    assert load_gguf(tmp_path / "v.gguf")[3].equal(torch.ones(4))


def test_damaged_gguf(tmp_path):
    path = tmp_path / "v.gguf"
    with pytest.raises(FileNotFoundError, match="no such GGUF"):
        load_gguf(path)
    save_gguf({1: torch.randn(50), 2: torch.randn(50)}, path)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 24, 7):  # The last 24 bytes are padding.
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="not a whole GGUF file"):
            load_gguf(path)
    path.write_bytes(os.urandom(500))
    with pytest.raises(ValueError, match="fetch or export it again"):
        load_gguf(path)


@pytest.fixture
def real(shared_data):
    names = ("execution_avg", "reflection_avg", "transition_avg", "seal_merged")
    return [load_gguf(shared_data / "vectors" / f"{name}_vector.gguf") for name in names]


def test_the_published_files(real):
    """R1-Distill-Qwen-1.5B: the norm of SEAL's S, and what their merged vector is."""
    execution, reflection, transition, merged = real
    for directions in real:
        assert list(directions) == list(range(28))
        assert all(direction.shape == (1536,) for direction in directions.values())

    def seal(block: int) -> torch.Tensor:
        e, r, t = (means[block].double() for means in (execution, reflection, transition))
        return e - (REFLECTION * r + TRANSITION * t) / (REFLECTION + TRANSITION)

    assert float(seal(19).norm()) == pytest.approx(60.46, abs=0.005)
    assert float(seal(20).norm()) == pytest.approx(66.96, abs=0.005)
    difference = max(
        float((execution[n] - reflection[n] - transition[n] - merged[n]).abs().max())
        for n in merged
    )
    assert difference <= 3.8e-6
    cosine = torch.cosine_similarity(seal(20), merged[20].double(), dim=0)
    assert float(cosine) == pytest.approx(0.742, abs=0.0005)


def test_the_published_files_come_back(real, tmp_path):
    save_gguf(real[0], tmp_path / "v.gguf")
    read = load_gguf(tmp_path / "v.gguf")
    assert all(read[n].equal(direction) for n, direction in real[0].items())


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"direction.1": [1.0, math.nan]}, r"'direction.1' holds NaN"),
        ({"direction.1": [1.0, 2.0], "direction.01": [3.0, 4.0]}, r"one direction for each block"),
        (
            {"direction.1": [1.0, 2.0], "direction.2": [3.0]},
            r"'direction.2' of 1 values; .* all of 2",
        ),
    ],
)
def test_impossible_directions_are_refused(tensors, message, tmp_path):
    from gguf.gguf_writer import GGUFWriter

    path = tmp_path / "v.gguf"
    writer = GGUFWriter(path, "controlvector")
    for name, values in tensors.items():
        writer.add_tensor(name, np.array(values, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match=message):
        load_gguf(path)
