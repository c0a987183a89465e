"""A fingerprint names a model by all that decides what it writes, and by nothing else."""

import json
import re
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

import mi_lens
from mi_lens.common.provenance import DECODING, code_hash, versions
from mi_lens.generation.plan import Plan
from mi_lens.generation.request import Request
from mi_lens.models.backends.lookup import NAMES, available
from mi_lens.models.fingerprint import _checksum, checkpoint_fingerprint, model_fingerprint
from mi_lens.models.loading import load, load_tokenizer


def edited(folder, file, **changes):
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes))


CHANGES = {
    "rms_norm_eps": lambda f: edited(f, "config.json", rms_norm_eps=0.1),
    "hidden_act": lambda f: edited(f, "config.json", hidden_act="relu"),
    "rope_theta": lambda f: edited(
        f, "config.json", rope_parameters={"rope_type": "default", "rope_theta": 500.0}
    ),
    "sliding_window": lambda f: edited(f, "config.json", sliding_window=3),
    "context": lambda f: edited(f, "config.json", max_position_embeddings=128),
    "end ids": lambda f: edited(f, "generation_config.json", eos_token_id=[1, 5]),
    "chat template": lambda f: (f / "chat_template.jinja").write_text("{{ messages }}"),
    "end of text": lambda f: edited(f, "tokenizer_config.json", eos_token="<think>"),
}


def fingerprint(folder, backend):
    return model_fingerprint(load(folder, backend=backend, device="cpu"))


@pytest.mark.parametrize("backend", NAMES)
def test_every_change_of_a_checkpoint_shows(backend, checkpoint, tmp_path):
    if backend not in available():
        pytest.skip(f"this TransformerLens has no backend {backend!r}")
    original = checkpoint("mistral")
    copy = tmp_path / "elsewhere"
    shutil.copytree(original, copy)
    names = {"original": fingerprint(original, backend)}
    assert fingerprint(copy, backend) == names["original"]  # the place does not matter
    for name, change in CHANGES.items():
        folder = tmp_path / name.replace(" ", "-")
        shutil.copytree(original, folder)
        change(folder)
        names[name] = fingerprint(folder, backend)
    assert len(set(names.values())) == len(names), names


def test_every_change_of_a_checkpoints_files_shows(checkpoint, tmp_path):
    def named(folder, dtype="float32", think="auto", quantization=None):
        tokenizer = load_tokenizer(folder, think)
        return checkpoint_fingerprint(folder, tokenizer, dtype, quantization)

    def flip(folder):
        data = bytearray((folder / "model.safetensors").read_bytes())
        data[-1] ^= 1
        (folder / "model.safetensors").write_bytes(data)

    original = checkpoint("mistral")
    copy = shutil.copytree(original, tmp_path / "elsewhere")
    first = named(original)
    assert re.fullmatch("[0-9a-f]{16}", first)
    assert named(copy) == first  # the place does not matter
    (copy / "README.md").write_text("nothing that decides a token")
    assert named(copy) == first
    names = [first, named(original, dtype="bfloat16"), named(original, think="none")]
    for name, change in {**CHANGES, "one bit": flip}.items():
        folder = shutil.copytree(original, tmp_path / name.replace(" ", "-"))
        change(folder)
        names.append(named(folder))
    assert len(set(names)) == len(CHANGES) + 4
    assert named(original, quantization="fp8") == f"{first} (fp8)"
    (copy / "generation_config.json").unlink()
    assert named(copy) != first
    (copy / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        named(copy)


def test_the_shards_of_a_checkpoint_are_read_in_pieces(checkpoint, tmp_path, monkeypatch):
    folder = checkpoint("llama")
    tokenizer = load_tokenizer(folder)
    whole = checkpoint_fingerprint(folder, tokenizer, "float32")
    monkeypatch.setattr("mi_lens.models.fingerprint.PIECE", 1000)
    assert checkpoint_fingerprint(folder, tokenizer, "float32") == whole
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path, max_shard_size="20KB")
    tokenizer.save_pretrained(tmp_path)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    sharded = checkpoint_fingerprint(tmp_path, tokenizer, "float32")
    data = bytearray(shards[-1].read_bytes())
    data[-1] ^= 1
    shards[-1].write_bytes(data)
    assert checkpoint_fingerprint(tmp_path, tokenizer, "float32") != sharded


@pytest.mark.parametrize("model", ["tiny_model", "tiny_bridge"])
def test_use_changes_nothing_and_any_weight_does(model, request):
    model = request.getfixturevalue(model)
    before = model_fingerprint(model)
    mi_lens.generate(model, ["1 + 1?"], max_new_tokens=3)
    with torch.no_grad():
        model.run_with_cache(torch.tensor([[3, 4, 5]]))
    assert model_fingerprint(model) == before
    weights = [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
    for tensor in weights[:: max(1, len(weights) // 6)]:
        place = tuple(size // 3 for size in tensor.shape)
        value = tensor[place].item()
        tensor[place] = value + 1e-12 if value else 1e-300
        assert model_fingerprint(model) != before
        tensor[place] = value
    assert model_fingerprint(model) == before


def test_changes_that_pytorch_does_not_count_show_too(checkpoint):
    """No fingerprint is kept from before: neither versions nor addresses tell these changes."""
    model = load(checkpoint("qwen2"), device="cpu")
    weight = next(p for p in model.parameters() if p.ndim > 1)
    seen = {model_fingerprint(model)}
    version, address = weight._version, weight.data_ptr()

    def changed():
        seen.add(fingerprint := model_fingerprint(model))
        return fingerprint

    weight.data[0, 0] += 1
    changed()
    weight.detach().numpy()[1, 1] += 1
    changed()
    weight.data[[0, 1]] = weight.data[[1, 0]]  # The same numbers in another order.
    changed()
    assert (weight._version, weight.data_ptr()) == (version, address)
    weight.data = weight.data.clone().mul_(2)
    changed()
    with torch.inference_mode():
        weight.add_(1)
    changed()
    model.cfg.eps = 0.5
    changed()
    model.tokenizer.chat_template = "{{ messages }}"
    changed()
    model.tokenizer.add_tokens(["Zebra"])
    assert changed() == changed()
    assert len(seen) == 9


@given(
    shape=st.lists(st.integers(1, 9), max_size=3),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.uint8, torch.bool]),
    seed=st.integers(0, 2**31),
)
@settings(deadline=None, max_examples=60)
def test_a_single_bit_and_an_exchange_change_the_sum(shape, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    tensor = torch.randn(shape, generator=generator).mul(50).to(dtype)
    total = int(_checksum(tensor))
    flat = tensor.clone().reshape(-1)
    place = int(torch.randint(len(flat), (1,), generator=generator))
    if dtype == torch.bool:
        flat[place] = ~flat[place]
    else:
        flat.view(torch.uint8)[place * dtype.itemsize] ^= 1
    assert int(_checksum(flat.reshape(shape))) != total
    if len(shape) > 1:
        turned = tensor.transpose(0, -1)
        assert int(_checksum(turned)) == int(_checksum(turned.contiguous()))
    other = tensor.clone().reshape(-1)
    ends = [0, len(other) - 1]
    if not torch.equal(other[ends[0]], other[ends[1]]):
        other[ends] = other[ends[::-1]]
        assert int(_checksum(other.reshape(shape))) != total


def test_pieces_give_the_sum_of_the_whole(monkeypatch):
    tensor = torch.randn(7, 33, 3, generator=torch.Generator().manual_seed(0))
    whole = int(_checksum(tensor.double()))
    monkeypatch.setattr("mi_lens.models.fingerprint.CHUNK", 64)
    assert int(_checksum(tensor.double())) == whole


def test_code_that_decides_tokens_is_part_of_an_id(tiny_model, monkeypatch):
    request = Request("1 + 1?")
    plan = Plan(tiny_model)
    before = plan.trace_id(request)
    assert versions()["code"] == code_hash(*DECODING)
    monkeypatch.setattr("mi_lens.generation.plan.code_hash", lambda *parts: "another")
    assert Plan(tiny_model).trace_id(request) != before
