"""A damaged or foreign checkpoint is refused by its file's name, and runs no code of its own."""

import json
import re
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from mi_lens.models.loading import load, load_outline, load_tokenizer

CODE = "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n"


@pytest.fixture
def folder(checkpoint, tmp_path):
    """A Llama's checkpoint, to be damaged."""
    shutil.copytree(checkpoint("llama3"), tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes))


DAMAGES = {
    "weights cut short": (
        lambda f: (f / "model.safetensors").write_bytes(
            (f / "model.safetensors").read_bytes()[:-100]
        ),
        r"model\.safetensors: not a whole safetensors file",
    ),
    "weights of Git LFS": (
        lambda f: (f / "model.safetensors").write_text(
            "version https://git-lfs.github.com/spec/v1"
        ),
        r"model\.safetensors: .*pointer of Git LFS",
    ),
    "no weights": (
        lambda f: (f / "model.safetensors").write_bytes(b""),
        r"model\.safetensors: .*the file is empty",
    ),
    "garbage for weights": (
        lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 4000),
        r"model\.safetensors: not a whole safetensors file",
    ),
    "config cut short": (
        lambda f: (f / "config.json").write_text('{"architectures": ["Llama'),
        r"config\.json: not JSON",
    ),
    "config of Git LFS": (
        lambda f: (f / "config.json").write_text("version https://git-lfs.github.com/spec/v1"),
        r"config\.json: not JSON \(a pointer of Git LFS",
    ),
    "config is a list": (
        lambda f: (f / "config.json").write_text("[1]"),
        r"config\.json: holds a JSON list",
    ),
    "architectures is a text": (
        lambda f: edit(f / "config.json", architectures="LlamaForCausalLM"),
        r"architecture None is not supported",
    ),
    "an impossible width": (
        lambda f: edit(f / "config.json", hidden_size="wide"),
        r"config\.json: ",
    ),
    "a width for more heads": (
        lambda f: edit(
            f / "config.json", num_attention_heads=3, num_key_value_heads=3, head_dim=None
        ),
        r"config\.json: hidden_size 32 with 3 heads; expected a multiple",
    ),
    "odd groups of heads": (
        lambda f: edit(f / "config.json", num_key_value_heads=3),
        r"config\.json: \d heads in 3 groups",
    ),
    "an unknown activation": (
        lambda f: edit(f / "config.json", hidden_act="nope"),
        r"config\.json: .*'nope'",
    ),
    "another width than the weights'": (
        lambda f: edit(f / "config.json", hidden_size=64),
        r"config\.json: no model can be built as it says \(its weights have other shapes",
    ),
    "a billion of everything": (
        lambda f: edit(f / "config.json", hidden_size=2**30, intermediate_size=2**30),
        r"config\.json: no model can be built as it says",
    ),
    "an unknown kind of rotation": (
        lambda f: edit(f / "config.json", rope_parameters={"rope_type": "nope"}),
        r"config\.json: ",
    ),
    "an end outside of the vocabulary": (
        lambda f: edit(f / "config.json", eos_token_id=[1, 10**9]),
        r"config\.json: eos_token_id is 1000000000; expected an id of the vocabulary",
    ),
    "an index without a map": (
        lambda f: (f / "model.safetensors.index.json").write_text("{}"),
        r"index\.json: no weight_map",
    ),
    "an index that leads outside": (
        lambda f: (f / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"lm_head.weight": "../other.safetensors"}})
        ),
        r"'lm_head.weight' is in '\.\./other\.safetensors'",
    ),
    "garbage for a tokenizer": (
        lambda f: (f / "tokenizer.json").write_text('{"model": 3}'),
        r"its tokenizer cannot be read",
    ),
    "a deeper model's weights": (
        lambda f: edit(f / "config.json", num_hidden_layers=2),
        r"weights have no place in a model of this config.json: model\.layers\.2\.",
    ),
    "a smaller vocabulary": (
        lambda f: edit(f / "config.json", vocab_size=100),
        r"ids up to \d+, and its model has embeddings for 100",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named(damage, folder):
    change, message = DAMAGES[damage]
    change(folder)
    with pytest.raises(ValueError, match=message):
        load(folder, device="cpu")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("hidden_size", -1),
        ("hidden_size", 0),
        ("hidden_size", True),
        ("num_hidden_layers", "3"),
        ("num_hidden_layers", 2.5),
        ("num_attention_heads", 0),
        ("num_key_value_heads", -2),
        ("vocab_size", -5),
        ("max_position_embeddings", -1),
        ("intermediate_size", 0),
        ("head_dim", 0),
        ("rms_norm_eps", -1.0),
        ("rms_norm_eps", 0),
        ("rope_theta", "x"),
        ("rope_theta", 0),
        ("num_hidden_layers", 10**9),
    ],
)
@pytest.mark.parametrize("reader", [load, load_outline])
def test_impossible_sizes_are_named_before_anything_is_built(reader, folder, setting, value):
    edit(folder / "config.json", **{setting: value})
    with pytest.raises(
        ValueError, match=rf"config\.json: {setting} is {re.escape(repr(value))}; exp"
    ):
        reader(folder)


def test_weights_that_are_dropped_are_named(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.self_attn.q_proj.bias"] = torch.zeros(32)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"1 weights have no place .*q_proj\.bias"):
        load(folder, device="cpu")


@pytest.mark.parametrize("reader", [load, load_outline, load_tokenizer])
def test_a_checkpoints_own_code_does_not_run(reader, folder, monkeypatch):
    """Not even where somebody answers yes to every question."""
    for name in ("configuration_evil", "modeling_evil", "tokenization_evil"):
        (folder / f"{name}.py").write_text(CODE)
    edit(
        folder / "config.json",
        model_type="evil",
        auto_map={
            "AutoConfig": "configuration_evil.EvilConfig",
            "AutoModelForCausalLM": "modeling_evil.EvilForCausalLM",
        },
    )
    edit(
        folder / "tokenizer_config.json",
        tokenizer_class="EvilTokenizer",
        auto_map={"AutoTokenizer": ["tokenization_evil.EvilTokenizer", None]},
    )
    (folder / "tokenizer.json").rename(folder / "vocab.json")
    asked = []
    monkeypatch.setattr("builtins.input", lambda *text: asked.append(text) or "yes")
    with pytest.raises(ValueError, match=r"config\.json: |its tokenizer cannot be read"):
        reader(folder)
    assert not asked
    assert not list(folder.rglob("ran"))
    assert not [name for name in sys.modules if "evil" in name]
