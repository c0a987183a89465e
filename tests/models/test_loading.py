"""Loading: what comes back, and what is said when it cannot."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from experiments.timings.loading import growth_mb, make_checkpoint, size_mb
from mi_lens.models import loading as models
from mi_lens.models.architectures import CONVERTERS
from mi_lens.models.backends.lookup import NAMES, available, backend_of, get_backend
from mi_lens.models.folder_checkpoint import FolderCheckpoint
from mi_lens.models.loading import load, load_outline
from mi_lens.models.placement import default_dtype
from mi_lens.models.processed_weights import require_unprocessed
from mi_lens.states.segments import widths
from tests.processes import result_of

TEXT = "Wait, 37 * 48 = 1776.\n\nSo <think> costs 1 €; é?"
NewCheckpoint = Callable[..., Path]


@pytest.fixture(autouse=True)
def built_in(checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for the built-in models: these tests are not about theirs."""
    folders = {"pocket-base": checkpoint("llama"), "pocket-reasoner": checkpoint("qwen2")}
    monkeypatch.setattr("mi_lens.models.pocket.CHECKPOINTS", folders)


@pytest.fixture(params=NAMES)
def backend(request: pytest.FixtureRequest) -> str:
    if request.param not in available():
        pytest.skip(f"this TransformerLens has no backend {request.param!r}")
    return request.param


def test_float32_logits_are_hugging_faces(
    checkpoint: Callable[[str], Path], architecture: str, backend: str
) -> None:
    from transformers import AutoModelForCausalLM

    folder = checkpoint(architecture)
    model = load(str(folder), backend=backend, device="cpu")
    assert model.cfg.dtype == torch.float32
    tokens = torch.randint(6, 384, (2, 40), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    mask[1, :25] = 0
    logits = get_backend(backend).forward(model, tokens, mask)
    source = AutoModelForCausalLM.from_pretrained(  # eager: some versions' sdpa has no softcap
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        for row, padding in ((0, 0), (1, 25)):
            expected = source(tokens[row : row + 1, padding:]).logits[0]
            error = (logits[row, padding:] - expected).abs().max() / expected.std()
            assert error < 1e-4


def test_auto_takes_the_first_backend_there_is(checkpoint: Callable[[str], Path]) -> None:
    model = load(checkpoint("qwen2"), device="cpu")
    assert backend_of(model).name == available()[0]


@pytest.mark.parametrize(
    ("name", "folder"), [("pocket-base", "llama"), ("pocket-reasoner", "qwen2")]
)
def test_a_built_in_model_goes_by_its_name(
    checkpoint: Callable[[str], Path], name: str, folder: str
) -> None:
    assert load(name, device="cpu").cfg.model_name == str(checkpoint(folder))


def test_a_folder_is_not_mistaken_for_a_built_in_model(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pocket-base").symlink_to(checkpoint("gpt2"))
    assert load("pocket-base", device="cpu").cfg.model_name == str(checkpoint("llama"))
    assert load("./pocket-base", device="cpu").cfg.model_name == "pocket-base"
    assert load(Path("pocket-base"), device="cpu").cfg.model_name == "pocket-base"


def test_the_tokenizer_is_the_checkpoints(
    checkpoint: Callable[[str], Path], architecture: str, backend: str, tokenizer: Any
) -> None:
    model = load(checkpoint(architecture), backend=backend, device="cpu")
    assert model.tokenizer.padding_side == "left"
    assert model.tokenizer(TEXT)["input_ids"] == tokenizer(TEXT)["input_ids"]
    assert model.tokenizer.decode(model.tokenizer(TEXT)["input_ids"]) == TEXT
    assert model.tokenizer.chat_template == tokenizer.chat_template
    ids = tokenizer(TEXT)["input_ids"]
    assert model.to_tokens(TEXT).tolist() == [ids]  # and no BOS token is slipped in before


def test_a_tokenizer_splits_words_as_its_own_file_says(new_checkpoint: NewCheckpoint) -> None:
    """A Llama folder with Llama's tokenizer class and another splitting, as R1 distills have."""
    folder = new_checkpoint("llama")
    config_file = folder / "tokenizer_config.json"
    config = json.loads(config_file.read_text()) | {"tokenizer_class": "LlamaTokenizer"}
    config_file.write_text(json.dumps(config))
    tokenizer = load(folder, device="cpu").tokenizer
    assert tokenizer.decode(tokenizer(TEXT)["input_ids"]) == TEXT


def test_a_checkpoint_without_tokenizer_takes_token_ids(
    new_checkpoint: NewCheckpoint, backend: str
) -> None:
    folder = new_checkpoint("llama")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    model = load(folder, backend=backend, device="cpu")
    assert model.tokenizer is None
    tokens = torch.tensor([[6, 7, 8]])
    assert get_backend(backend).forward(model, tokens, torch.ones_like(tokens)).isfinite().all()


def test_padding_has_a_token_even_if_the_tokenizer_names_none(
    new_checkpoint: NewCheckpoint,
) -> None:
    folder = new_checkpoint("llama")
    config_file = folder / "tokenizer_config.json"
    config = json.loads(config_file.read_text())
    del config["pad_token"]
    config_file.write_text(json.dumps(config))
    tokenizer = load(folder, device="cpu").tokenizer
    assert tokenizer.pad_token == "<|end|>"


@pytest.mark.parametrize("dtype", ["float64", torch.float64, "bfloat16", torch.float16])
def test_dtype_by_name_or_by_itself(
    checkpoint: Callable[[str], Path], backend: str, dtype: torch.dtype | str
) -> None:
    model = load(checkpoint("qwen3"), backend=backend, dtype=dtype, device="cpu")
    wanted = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    assert model.cfg.dtype == wanted
    assert {parameter.dtype for parameter in model.parameters()} == {wanted}


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("wanted", ["float32", "bfloat16", "float16", "float64"])
def test_every_dtype_stored_becomes_every_dtype_wanted(
    checkpoint: Callable[[str], Path],
    architecture: str,
    tmp_path: Path,
    stored: torch.dtype,
    wanted: str,
) -> None:
    """The weights and buffers are those that Hugging Face's own conversion gives."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "checkpoint"
    AutoModelForCausalLM.from_pretrained(checkpoint(architecture), dtype=stored).save_pretrained(
        folder
    )
    dtype = getattr(torch, wanted)
    ours = FolderCheckpoint(folder, folder).read(dtype, attn_implementation="eager")
    models._convert(ours, dtype, torch.device("cpu"), quantised=False)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    assert ours.dtype == ours.config.dtype == dtype
    for mine, other in (
        (ours.state_dict(), theirs.state_dict()),
        map(dict, (ours.named_buffers(), theirs.named_buffers())),
    ):
        assert mine.keys() == other.keys()
        for name, value in mine.items():
            assert value.dtype == other[name].dtype
            assert torch.equal(value, other[name])
    embedding = ours.get_input_embeddings().weight
    tied = ours.get_output_embeddings().weight.data_ptr() == embedding.data_ptr()
    assert tied == ours.config.tie_word_embeddings


def test_more_devices_than_there_are_are_refused(backend: str) -> None:
    if backend == "hooked":
        with pytest.raises(ValueError, match=r"n_devices=2.*backend='bridge' only"):
            load("pocket-base", backend=backend, n_devices=2)
        return
    with pytest.raises(ValueError, match=r"n_devices=97.*CUDA"):
        load("pocket-base", backend=backend, n_devices=97)
    with pytest.raises(ValueError, match="leave device out"):
        load("pocket-base", backend=backend, n_devices=2, device="cpu")
    with pytest.raises(ValueError, match="expected at least 1"):
        load("pocket-base", backend=backend, n_devices=0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_spread_model_computes_the_same(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    """Spread over CPUs that are one: Hugging Face's dispatch is at work, the devices are not."""
    parts = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu"}
    whole = load(checkpoint("llama3"), backend="bridge", dtype=dtype, device="cpu")
    spread = parts | {"lm_head": "cpu"} | {f"model.layers.{i}": "cpu" for i in range(3)}
    monkeypatch.setattr(models, "placement", lambda *_: {"device_map": spread})
    other = load(checkpoint("llama3"), backend="bridge", dtype=dtype)
    assert {str(parameter.dtype) for parameter in other.parameters()} == {f"torch.{dtype}"}
    tokens = torch.randint(6, 384, (2, 40), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    forward = get_backend("bridge").forward
    assert torch.equal(forward(whole, tokens, mask), forward(other, tokens, mask))


@pytest.mark.parametrize(
    ("own", "device", "expected"),
    [
        ("bfloat16", "cuda", torch.bfloat16),
        ("bfloat16", "cpu", torch.float32),
        ("float16", "cuda", torch.float32),
        (None, "cuda", torch.float32),
    ],
)
def test_default_dtype(own: str | None, device: str, expected: torch.dtype) -> None:
    assert default_dtype({"dtype": own}, torch.device(device)) == expected


def test_shards_are_put_together(new_checkpoint: NewCheckpoint) -> None:
    folder = new_checkpoint("llama")
    whole = load(folder, device="cpu")
    _split(folder)
    assert not (folder / "model.safetensors").exists()
    tokens = torch.tensor([[9, 8, 7]])
    mask = torch.ones_like(tokens)
    parts = load(folder, device="cpu")
    forward = backend_of(whole).forward
    assert torch.equal(forward(whole, tokens, mask), forward(parts, tokens, mask))


def _split(folder: Path) -> None:
    """Write the weights as two shards with an index."""
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    shards = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for file, kept in shards.items():
        save_file({name: weights[name] for name in kept}, folder / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {n: file for file, kept in shards.items() for n in kept}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(new_checkpoint: NewCheckpoint, missing: str) -> None:
    folder = new_checkpoint("llama")
    (folder / missing).unlink()
    with pytest.raises(FileNotFoundError, match=missing):
        load(folder)


def test_a_missing_shard_is_named(new_checkpoint: NewCheckpoint) -> None:
    folder = new_checkpoint("llama")
    _split(folder)
    (folder / "two.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"two\.safetensors"):
        load(folder)


def test_a_missing_weight_is_not_made_up(new_checkpoint: NewCheckpoint) -> None:
    folder = new_checkpoint("llama")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        load(folder)


def _edit_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("architectures", [["BertForMaskedLM"], [], None])
def test_an_unsupported_architecture_is_named(
    new_checkpoint: NewCheckpoint, architectures: list[str] | None
) -> None:
    folder = new_checkpoint("llama")
    _edit_config(folder, architectures=architectures)
    with pytest.raises(ValueError, match="Qwen2ForCausalLM") as error:
        load(folder)
    assert repr((architectures or [None])[0]) in str(error.value)


def test_every_architecture_supported_is_tested(
    architectures: list[str], checkpoint: Callable[[str], Path]
) -> None:
    configs = [json.loads((checkpoint(name) / "config.json").read_text()) for name in architectures]
    assert {config["architectures"][0] for config in configs} == set(CONVERTERS)


@pytest.mark.parametrize("name", ["./no/such/folder", "/no/such", Path("no-such")])
def test_a_missing_folder_is_named(name: str | Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no.such"):
        load(name)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("pocket-reasonner", "pocket-reasoner"),
        ("DeepSeek-R1-Distill-Qwen-1.5B", "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"),
        ("qwq-32b", "Qwen/QwQ-32B"),
    ],
)
def test_an_unknown_name_is_told_near_ones(name: str, near: str) -> None:
    with pytest.raises(ValueError, match="folder") as error:
        load(name)
    assert near in str(error.value)
    assert name in str(error.value)


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_not_the_working_folder(name: str) -> None:
    with pytest.raises(ValueError, match="expected a name, a Hugging Face id or a folder"):
        load(name)


def test_a_name_like_no_other_is_told_what_is_possible() -> None:
    with pytest.raises(ValueError, match=r"pocket-base.*pocket-reasoner.*owner/model") as error:
        load("zzzzzz")
    assert "near" not in str(error.value)


def test_a_hub_that_cannot_be_reached_is_reported() -> None:
    with pytest.raises(OSError, match="hub did not give it") as error:
        load("Qwen/QwQ-33B")
    assert "near: Qwen/QwQ-32B" in str(error.value)


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'vllm'.*'auto'.*'hooked'.*'bridge'"):
        load("pocket-reasoner", backend="vllm")


def test_a_backend_of_another_transformer_lens_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mi_lens.models.backends.lookup.available", lambda: ("bridge",))
    with pytest.raises(ValueError, match=r"TransformerLens \d.*backend='bridge'"):
        load("pocket-reasoner", backend="hooked")


@pytest.mark.parametrize("dtype", ["float8", torch.int64])
def test_an_unsupported_dtype_is_refused(dtype: Any) -> None:
    with pytest.raises(ValueError, match=r"dtype .*'float32', 'float64', 'bfloat16'"):
        load("pocket-reasoner", dtype=dtype)


@pytest.mark.parametrize("device", ["tpu-of-mine", "meta", "cuda:97"])
def test_an_unavailable_device_is_refused(device: str) -> None:
    with pytest.raises(ValueError, match=f"device '{device}' is not available"):
        load("pocket-reasoner", device=device)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_processed_weights_are_refused(
    checkpoint: Callable[[str], Path], architecture: str, backend: str
) -> None:
    model = load(checkpoint(architecture), backend=backend, device="cpu")
    require_unprocessed(model)
    if backend == "hooked":
        model.process_weights_()
    else:
        model.enable_compatibility_mode(disable_warnings=True)
    with pytest.raises(ValueError, match=r"processed.*mi_lens\.load"):
        require_unprocessed(model)


def test_only_models_of_transformer_lens_have_a_backend() -> None:
    with pytest.raises(TypeError, match=r"SimpleNamespace.*mi_lens\.load"):
        backend_of(SimpleNamespace())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells a peak")
def test_a_checkpoint_stands_in_memory_once(tmp_path: Path) -> None:
    """In fresh processes, to the end of a forward pass; experiments/timings has it at 1 GB."""
    make_checkpoint(tmp_path, 3, "float32", "70MB")
    size = size_mb(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    for backend in available():
        for dtype in ("float32", "bfloat16"):
            peak = result_of(growth_mb, tmp_path, backend, dtype)
            assert size / 3 < peak < 1.15 * size + 40, (backend, dtype)


def test_an_outline_has_the_hooks_of_the_model(
    checkpoint: Callable[[str], Path], architecture: str, backend: str
) -> None:
    folder = checkpoint(architecture)
    outline, model = load_outline(folder, backend), load(folder, backend=backend, device="cpu")
    names = get_backend(backend).hook_names
    assert names(outline) == names(model)
    assert outline.cfg.d_model == model.cfg.d_model
    assert outline.tokenizer(TEXT)["input_ids"] == model.tokenizer(TEXT)["input_ids"]


def test_an_outline_ends_texts_where_the_model_does(
    new_checkpoint: NewCheckpoint, backend: str
) -> None:
    folder = new_checkpoint("llama")
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": [1, 7]}))
    for ends in ({1, 7}, {1}):
        for loaded in (load(folder, backend=backend, device="cpu"), load_outline(folder, backend)):
            assert loaded.eos_token_ids == ends
        path.unlink(missing_ok=True)  # then the model's config says it
    path.write_text(json.dumps({"eos_token_id": 1000}))
    for call in (load, load_outline):
        with pytest.raises(ValueError, match="ends at eos_token_id 1000; expected ids"):
            call(folder, backend=backend)


def test_an_outline_tells_the_width_of_states(
    checkpoint: Callable[[str], Path], architecture: str, backend: str
) -> None:
    outline = load_outline(checkpoint(architecture), backend)
    hook_names = ["blocks.2.hook_resid_post", "blocks.0.hook_resid_post"]
    assert widths(outline, hook_names) == dict.fromkeys(hook_names, outline.cfg.d_model)


def test_an_outline_needs_no_weights(new_checkpoint: NewCheckpoint, backend: str) -> None:
    folder = new_checkpoint("llama")
    (folder / "model.safetensors").unlink()
    assert load_outline(folder, backend).cfg.n_layers == 3
