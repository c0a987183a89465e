"""A damaged or foreign checkpoint is refused by its file's name, and runs no code of its own."""

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import mi_lens
from mi_lens.models.backends.lookup import available, get_backend
from mi_lens.models.folder_checkpoint import FolderCheckpoint
from mi_lens.models.loading import load, load_outline, load_tokenizer
from mi_lens.runs.generate import run_generate

CODE = "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n"


@pytest.fixture
def folder(checkpoint, tmp_path):
    """A Llama's checkpoint, to be damaged."""
    shutil.copytree(checkpoint("llama3"), tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes))


def rewrite_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def longer_vocabulary(weights, size):
    """Embeddings of a larger vocabulary: padding below, as published models have."""
    names = [name for name in weights if "embed" in name or "lm_head" in name]
    return {name: torch.nn.functional.pad(weights[name], (0, 0, 0, size - 390)) for name in names}


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
    "an end outside of the vocabulary": (
        lambda f: edit(f / "config.json", eos_token_id=[1, 10**9]),
        r"config\.json: eos_token_id is 1000000000; expected an id of the vocabulary",
    ),
    "another end in generation_config": (
        lambda f: edit(f / "generation_config.json", eos_token_id=10**6),
        r"generation config ends at eos_token_id 1000000; expected ids of the vocabulary",
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
    "an output layer that the config has and the file lacks": (
        lambda f: rewrite_weights(f, lambda w: w.pop("lm_head.weight")),
        r"missing or misshapen: lm_head\.weight; .*set tie_word_embeddings to true",
    ),
    "an output layer that the config does without": (
        lambda f: edit(f / "config.json", tie_word_embeddings=True),
        r"config\.json says tie_word_embeddings, .*set tie_word_embeddings to false",
    ),
    "another model's small tokenizer": (
        lambda f: (
            edit(f / "config.json", vocab_size=1000),
            rewrite_weights(f, lambda w: w.update(longer_vocabulary(w, 1000))),
        ),
        r"ids up to \d+, and its model has embeddings for 1000, over twice as many",
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


IMPOSSIBLE = [
    ("llama3", "hidden_size", -32, "from 1 to 1,000,000"),
    ("llama3", "hidden_size", "32", "from 1 to 1,000,000"),
    ("llama3", "hidden_size", 32.0, "from 1 to 1,000,000"),
    ("llama3", "hidden_size", True, "from 1 to 1,000,000"),
    ("llama3", "num_hidden_layers", 10**9, "from 1 to 1,000"),
    ("llama3", "num_hidden_layers", 0, "from 1 to 1,000"),
    ("llama3", "num_hidden_layers", None, "from 1 to 1,000"),
    ("llama3", "vocab_size", 10**12, "from 1 to 10,000,000"),
    ("llama3", "head_dim", -8, "from 1"),
    ("llama3", "num_key_value_heads", 3, "a divisor of num_attention_heads, 4"),
    ("llama3", "num_key_value_heads", 0, "from 1"),
    ("llama3", "max_position_embeddings", -1, "from 1"),
    ("llama3", "rms_norm_eps", -1.0, "above 0"),
    ("llama3", "rms_norm_eps", float("nan"), "above 0"),
    ("llama3", "rope_theta", None, "above 0"),
    ("llama3", "dtype", 3, "a name such as"),
    ("gemma2", "query_pre_attn_scalar", 0, "above 0"),
    ("gemma2", "final_logit_softcapping", -2.0, "above 0"),
    ("mistral", "sliding_window", 0, "from 1"),
    ("gpt2", "n_head", 5, "a divisor of n_embd, 32"),
    ("gpt2", "n_layer", 10**9, "from 1"),
    ("gpt2", "n_inner", -3, "from 1"),
]


@pytest.mark.parametrize(("architecture", "name", "value", "expected"), IMPOSSIBLE)
def test_an_impossible_value_is_named(architecture, name, value, expected, checkpoint, tmp_path):
    shutil.copy(checkpoint(architecture) / "config.json", tmp_path)
    edit(tmp_path / "config.json", **{name: value})
    for reader in (lambda path: FolderCheckpoint(path, path).settings(), load_outline):
        with pytest.raises(ValueError, match=rf"config\.json: {name} is ") as error:
            reader(tmp_path)
        assert f"is {value!r}; expected" in str(error.value)
        assert expected in str(error.value)


@pytest.mark.parametrize("name", ["rope_theta", "factor"])
@pytest.mark.parametrize("value", [0, -3.0, None, "many"])
def test_an_impossible_rotation_is_named(name, value, folder):
    rope = json.loads((folder / "config.json").read_text())["rope_parameters"] | {name: value}
    edit(folder / "config.json", rope_parameters=rope)
    with pytest.raises(ValueError, match=rf"config\.json: rope_parameters\.{name} is {value!r}"):
        load(folder, device="cpu")


@pytest.mark.parametrize("name", ["hidden_size", "num_hidden_layers", "vocab_size"])
def test_a_missing_size_is_named(name, folder):
    """Hugging Face would take its default, such as 32 layers."""
    config = json.loads((folder / "config.json").read_text())
    del config[name]
    (folder / "config.json").write_text(json.dumps(config))
    for reader in (load, load_outline):
        with pytest.raises(ValueError, match=rf"config\.json: {name} is missing"):
            reader(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "superact"}, r"no model can be built from it \(KeyError: 'superact'\)"),
        ({"rope_parameters": {"rope_type": "magic", "rope_theta": 1e4}}, "KeyError: 'magic'"),
        ({"hidden_size": 64}, "the weights beside it have other shapes than it says"),
    ],
)
def test_what_no_model_is_built_from_is_named(changes, message, folder):
    edit(folder / "config.json", **changes)
    with pytest.raises(ValueError, match=rf"config\.json: .*{message}"):
        load(folder, device="cpu")
    if "hidden_size" not in changes:
        with pytest.raises(ValueError, match=rf"config\.json: .*{message}"):
            load_outline(folder)


@pytest.mark.parametrize("damage", DAMAGES)
def test_nothing_of_a_damaged_checkpoint_stays(damage, folder):
    """After the error the same folder loads once it is mended: no cache, no half of a model."""
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    DAMAGES[damage][0](folder)
    with pytest.raises(ValueError, match=r"."):
        load(folder, device="cpu")
    for path in folder.iterdir():
        path.unlink()
    for name, content in kept.items():
        (folder / name).write_bytes(content)
    assert load(folder, device="cpu").cfg.n_layers == 3


def test_padding_of_the_vocabulary_is_usual(folder):
    edit(folder / "config.json", vocab_size=500)
    rewrite_weights(folder, lambda w: w.update(longer_vocabulary(w, 500)))
    assert load(folder, device="cpu").cfg.d_vocab == 500


def test_an_output_layer_equal_to_the_embeddings_is_tied(folder):
    edit(folder / "config.json", tie_word_embeddings=True)
    copy = {"lm_head.weight": "model.embed_tokens.weight"}
    rewrite_weights(folder, lambda w: w.update({k: w[v].clone() for k, v in copy.items()}))
    tokens = torch.arange(6, 12)[None]
    logits = [
        get_backend(name).forward(
            load(folder, backend=name, device="cpu"), tokens, torch.ones_like(tokens)
        )
        for name in available()
    ]
    rewrite_weights(folder, lambda w: w.pop("lm_head.weight"))
    for name, expected in zip(available(), logits, strict=True):
        model = load(folder, backend=name, device="cpu")
        found = get_backend(name).forward(model, tokens, torch.ones_like(tokens))
        assert torch.equal(found, expected)


def without_end(folder):
    """A base model's checkpoint: nothing says which token ends a text."""
    for file in ("config.json", "generation_config.json", "tokenizer_config.json"):
        content = json.loads((folder / file).read_text(encoding="utf-8"))
        content = {k: v for k, v in content.items() if k not in ("eos_token", "eos_token_id")}
        (folder / file).write_text(json.dumps(content))


def test_a_model_that_ends_no_text_is_read_and_writes_up_to_a_stop(folder):
    without_end(folder)
    model = load(folder, device="cpu")
    assert model.eos_token_ids == frozenset()
    assert model.tokenizer.eos_token is None
    with pytest.raises(ValueError, match=r"no token ends a text .*give stop=, or set .*eos_token"):
        mi_lens.generate(model, ["1 + 1"], style="raw", progress=False)
    (trace,) = mi_lens.generate(
        model, ["1 + 1"], style="raw", stop=["zzz"], max_new_tokens=5, progress=False
    )
    assert trace.stop_reason == "length"
    (states,) = mi_lens.capture(model, [trace], "blocks.0.hook_resid_post")
    assert len(states["blocks.0.hook_resid_post"]) == 5
    model.eos_token_ids = frozenset({trace.token_ids[2]})
    (ended,) = mi_lens.generate(model, ["1 + 1"], style="raw", progress=False)
    assert ended.stop_reason == "eos"


def test_a_model_without_a_chat_template_takes_raw_prompts(folder, tmp_path):
    for file in folder.glob("chat_template*"):
        file.unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    model = load(folder, device="cpu")
    for style in ("chat", "seal"):
        with pytest.raises(ValueError, match=rf"'{style}' needs a chat template.*style='raw'"):
            mi_lens.generate(model, ["fine", "1 + 1"], style=style, progress=False)
    problem = mi_lens.Problem("1", "1 + 1", "2", "It is 2.", "test")
    with pytest.raises(ValueError, match=r"needs a chat template.*style='raw'"):
        mi_lens.answer_state(model, problem, "blocks.0.hook_resid_post", template=True)
    (trace,) = mi_lens.generate(model, ["1 + 1"], style="raw", max_new_tokens=3, progress=False)
    assert trace.prompt == "1 + 1"
    config = mi_lens.GenerateConfig(model=str(folder), out=tmp_path / "run", limit=1, device="cpu")
    with pytest.raises(ValueError, match=r"needs a chat template.*style='raw'"):
        run_generate(config)
    assert not (tmp_path / "run").exists()


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
