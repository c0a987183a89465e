"""GGUF: the weights are what the file's blocks are worth, and nothing of it is guessed."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.timings.loading import growth_mb
from mi_lens import cli
from mi_lens.models.backends.lookup import NAMES, available, get_backend
from mi_lens.models.fingerprint import model_fingerprint
from mi_lens.models.gguf_checkpoint import GGUFCheckpoint
from mi_lens.models.loading import load, load_outline, load_tokenizer
from mi_lens.models.placement import default_dtype
from tests.conftest import ARCHITECTURES, LLAMA3_ROPE
from tests.gguf_files import write_gguf
from tests.processes import result_of

KINDS = ("F16", "BF16", "Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")
# Rows are multiples of the largest block, 256; or of the others', 32.
NARROW = {"intermediate_size": 64}
WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2}
WIDE |= {"num_key_value_heads": 2, "initializer_range": 0.1}
TEXT = "Wait, 37 * 48 = 1776.\n\n3 <think> costs 1 €; é?"


def random_model(architecture: str, **changes: Any) -> Any:
    """A random Hugging Face model of an architecture of conftest, in float32."""
    import transformers

    config_class, fields = ARCHITECTURES[architecture]
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    fields = fields | {"vocab_size": 390} | ends | changes
    config = getattr(transformers, config_class)(**fields)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation="eager"
        )
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:  # norms and biases are initialised to constants
                torch.nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.3)
    return model.eval().requires_grad_(False)


@pytest.fixture(params=NAMES)
def backend(request: pytest.FixtureRequest) -> str:
    if request.param not in available():
        pytest.skip(f"this TransformerLens has no backend {request.param!r}")
    return request.param


@pytest.fixture
def file(tmp_path: Path, tokenizer: Any) -> Path:
    """A Qwen2 in float32, to be changed."""
    write_gguf(tmp_path / "model.gguf", random_model("qwen2"), tokenizer)
    return tmp_path / "model.gguf"


def logits_of(model: Any, backend: str) -> torch.Tensor:
    tokens = torch.randint(6, 384, (2, 30), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    mask[1, :11] = 0
    return get_backend(backend).forward(model, tokens, mask)


def require_same_logits(model: Any, backend: str, source: Any) -> None:
    tokens = torch.randint(6, 384, (2, 30), generator=torch.Generator().manual_seed(0))
    logits = logits_of(model, backend)
    for row, padding in ((0, 0), (1, 11)):
        expected = source(tokens[row : row + 1, padding:]).logits[0]
        assert (logits[row, padding:] - expected).abs().max() < 1e-4 * expected.std()


# Weights


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_what_the_blocks_are_worth(
    tmp_path: Path, tokenizer: Any, architecture: str, kind: str
) -> None:
    path = tmp_path / "model.gguf"
    original = random_model(architecture, **WIDE)
    worth = write_gguf(path, original, tokenizer, kind)
    original.load_state_dict(worth, strict=False)
    loaded = GGUFCheckpoint(path).read(torch.float32, attn_implementation="eager")
    assert loaded.state_dict().keys() == original.state_dict().keys()
    for name, weight in loaded.state_dict().items():
        assert torch.equal(weight, original.state_dict()[name]), name
    for backend in available():
        require_same_logits(load(path, backend=backend, device="cpu"), backend, original)


@pytest.mark.parametrize("architecture", ["gemma2", "gpt2", "llama", "mistral", "qwen3"])
def test_every_architecture_is_the_model_that_was_written(
    tmp_path: Path, tokenizer: Any, architecture: str, backend: str
) -> None:
    """With float32 weights the file holds the model itself, so the config is tested as well."""
    changes = {"query_pre_attn_scalar": 12} if architecture == "gemma2" else {}
    changes |= {"sliding_window": None} if architecture == "mistral" else {}  # llama.cpp has none
    original = random_model(architecture, **changes)
    write_gguf(tmp_path / "model.gguf", original, tokenizer)
    model = load(tmp_path / "model.gguf", backend=backend, device="cpu")
    require_same_logits(model, backend, original)
    assert model.cfg.n_ctx == 256
    assert model.eos_token_ids == {1}


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_logits_are_hugging_faces_own(
    tmp_path: Path, tokenizer: Any, architecture: str, backend: str
) -> None:
    from transformers import AutoModelForCausalLM

    write_gguf(tmp_path / "model.gguf", random_model(architecture, **NARROW), tokenizer, "Q8_0")
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="model.gguf", dtype=torch.float32, attn_implementation="eager"
    )
    model = load(tmp_path / "model.gguf", backend=backend, device="cpu")
    with torch.no_grad():
        require_same_logits(model, backend, theirs)


def test_scaled_rotary_frequencies_of_llama_3_are_read(tmp_path: Path, tokenizer: Any) -> None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = LLAMA3_ROPE | {"original_max_position_embeddings": 8192}
    original = random_model("llama3", rope_parameters=rope, **WIDE)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](original.config, torch.device("cpu"))
    plain = 10_000.0 ** -(torch.arange(0, 64, 2) / 64)
    write_gguf(
        tmp_path / "a.gguf",
        original,
        tokenizer,
        tensors={"rope_freqs.weight": (plain / scaled).numpy()},
    )
    assert (plain / scaled).unique().numel() > 3
    backend = available()[0]
    model = load(tmp_path / "a.gguf", backend=backend, device="cpu")
    require_same_logits(model, backend, original)
    factors = np.linspace(1, 8, 32, dtype=np.float32)
    write_gguf(tmp_path / "b.gguf", original, tokenizer, tensors={"rope_freqs.weight": factors})
    with pytest.raises(ValueError, match=r"b\.gguf: rope_freqs\.weight scales .*otherwise"):
        load(tmp_path / "b.gguf", device="cpu")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_weights_are_rounded_once(file: Path, dtype: str) -> None:
    wanted = getattr(torch, dtype)
    loaded = GGUFCheckpoint(file).read(wanted, attn_implementation="eager")
    assert loaded.config.dtype == wanted
    for name, weight in random_model("qwen2").state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight.to(wanted)), name


@pytest.mark.parametrize(
    ("kind", "own"), [("BF16", "bfloat16"), ("F16", "float32"), ("Q8_0", "float32")]
)
def test_the_default_dtype_on_a_gpu(tmp_path: Path, tokenizer: Any, kind: str, own: str) -> None:
    write_gguf(tmp_path / "model.gguf", random_model("qwen2", **NARROW), tokenizer, kind)
    settings = GGUFCheckpoint(tmp_path / "model.gguf").settings()
    assert default_dtype(settings, torch.device("cuda")) == getattr(torch, own)


def test_the_model_is_not_marked_as_quantised(tmp_path: Path, tokenizer: Any, backend: str) -> None:
    names = []
    for name, kind in (("a", "Q8_0"), ("b", "Q8_0"), ("c", "Q4_0")):
        write_gguf(tmp_path / f"{name}.gguf", random_model("qwen2", **NARROW), tokenizer, kind)
        model = load(tmp_path / f"{name}.gguf", backend=backend, device="cpu")
        names.append(model_fingerprint(model))
    assert names[0] == names[1] != names[2]
    config = getattr(getattr(model, "original_model", None), "config", None)
    assert getattr(config, "quantization_config", None) is None


# Where a file is


def test_a_file_goes_by_its_path_or_by_its_folder(file: Path, monkeypatch: Any) -> None:
    expected = logits_of(load(file, device="cpu"), available()[0])
    monkeypatch.chdir(file.parent)
    for name in (str(file), "model.gguf", file.parent):
        assert torch.equal(logits_of(load(name, device="cpu"), available()[0]), expected)
    shutil.copy(file, file.with_name("other.gguf"))
    with pytest.raises(ValueError, match=r"holds 2 GGUF files.*gguf_file='model\.gguf'"):
        load(file.parent)
    for call in (load, load_outline, load_tokenizer):
        call(file.parent, gguf_file="other.gguf")
        call(str(file.parent), gguf_file="other.gguf")


def test_a_checkpoint_beside_it_is_another_one(checkpoint: Callable[..., Path], file: Path) -> None:
    shutil.copytree(checkpoint("llama"), file.parent, dirs_exist_ok=True)
    assert load(file.parent, device="cpu").cfg.original_architecture == "LlamaForCausalLM"
    model = load(file.parent, gguf_file="model.gguf", device="cpu")
    assert model.cfg.original_architecture == "Qwen2ForCausalLM"


def test_an_outline_has_the_hooks_of_the_model(file: Path, backend: str) -> None:
    names = get_backend(backend).hook_names
    outline, model = load_outline(file, backend), load(file, backend=backend, device="cpu")
    assert names(outline) == names(model)
    assert outline.tokenizer(TEXT)["input_ids"] == model.tokenizer(TEXT)["input_ids"]


@pytest.mark.parametrize(
    ("name", "gguf_file"),
    [("owner/model/Q4.gguf", None), ("owner/model", "Q4.gguf"), ("owner/model/a/Q4.gguf", None)],
)
def test_a_file_on_the_hub_is_downloaded(
    file: Path, monkeypatch: Any, name: str, gguf_file: str | None
) -> None:
    asked = []

    def snapshot_download(owner: str, allow_patterns: list[str], **_: Any) -> str:
        asked.append((owner, allow_patterns))
        (file.parent / allow_patterns[0]).parent.mkdir(exist_ok=True)
        shutil.copy(file, file.parent / allow_patterns[0])
        return str(file.parent)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    load_tokenizer(name, gguf_file=gguf_file)
    wanted = "a/Q4.gguf" if "/a/" in name else "Q4.gguf"
    assert asked == [("owner/model", [wanted])]


def test_a_command_takes_a_file_for_its_model(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ["--limit", "1", "--max-new-tokens", "4", "--device", "cpu"]
    cli.main(["generate", "--model", str(file), "--out", str(out), *options])
    assert (out / "traces.jsonl").stat().st_size


# Files that cannot be loaded


def write_and_load(tmp_path: Path, tokenizer: Any, **changes: Any) -> None:
    write_gguf(tmp_path / "bad.gguf", random_model("qwen2"), tokenizer, **changes)
    load(tmp_path / "bad.gguf", device="cpu")


CHANGES = {
    "unknown architecture": (
        {"general.architecture": "mamba"},
        r"architecture 'mamba' is not supported as GGUF; supported are gemma2, gpt2, llama",
    ),
    "a part of several": ({"split.count": 3}, r"one of 3 parts; join them first"),
    "scaled rotary angles": (
        {"qwen2.rope.scaling.type": "yarn", "qwen2.rope.scaling.factor": 4.0},
        r"sets qwen2\.rope\.scaling\.factor, qwen2\.rope\.scaling\.type, which cannot be read",
    ),
    "no width": ({"qwen2.embedding_length": None}, r"qwen2\.embedding_length is missing"),
    "an impossible width": ({"qwen2.embedding_length": 0}, r"hidden_size is 0; expected"),
    "another width": ({"qwen2.embedding_length": 64}, r"have other shapes"),
    "fewer blocks": ({"qwen2.block_count": 2}, r"12 weights have no place .*blk\.2\.attn_k"),
    "more blocks": ({"qwen2.block_count": 4}, r"missing or misshapen: model\.layers\.3\."),
    "no tokenizer": (
        {"tokenizer.ggml.tokens": None, "tokenizer.ggml.model": None},
        r"holds no tokenizer",
    ),
    "SentencePiece": ({"tokenizer.ggml.model": "llama"}, r"of kind 'llama' .*load the original"),
    "unknown splitting": ({"tokenizer.ggml.pre": "viking"}, r"as 'viking'; expected .*smollm"),
    "no splitting": ({"tokenizer.ggml.pre": None}, r"splits text as None; expected"),
    "an end beyond the vocabulary": ({"tokenizer.ggml.eos_token_id": 390}, r"eos_token_id is"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_cannot_be_read_is_named(tmp_path: Path, tokenizer: Any, change: str) -> None:
    changes, message = CHANGES[change]
    with pytest.raises(ValueError, match=rf"bad\.gguf.*{message}"):
        write_and_load(tmp_path, tokenizer, **changes)


@pytest.mark.parametrize("name", ["blk.1.ffn_up.weight", "token_embd.weight"])
def test_a_missing_weight_is_not_made_up(tmp_path: Path, tokenizer: Any, name: str) -> None:
    with pytest.raises(ValueError, match=r"bad\.gguf.*(layers\.1\.mlp\.up_proj|token_embd)"):
        write_and_load(tmp_path, tokenizer, tensors={name: None})


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused(
    tmp_path: Path, tokenizer: Any
) -> None:
    original = random_model("qwen2", vocab_size=300)
    write_gguf(tmp_path / "a.gguf", random_model("qwen2"), tokenizer)
    fields = GGUFCheckpoint(tmp_path / "a.gguf")
    tokens = {
        f"tokenizer.ggml.{name}": fields.value(f"tokenizer.ggml.{name}")
        for name in ("tokens", "token_type")
    }
    write_gguf(tmp_path / "b.gguf", original, tokenizer, **tokens)
    with pytest.raises(ValueError, match=r"b\.gguf: its tokenizer gives ids up to"):
        load(tmp_path / "b.gguf")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.5, 0.9, 0.999])
def test_a_file_cut_short_is_refused(file: Path, share: float) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    for call in (load, load_outline, load_tokenizer):
        with pytest.raises(ValueError, match=r"model\.gguf: not a whole GGUF file"):
            call(file)


def test_a_pointer_of_git_lfs_is_named(file: Path) -> None:
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n")
    with pytest.raises(ValueError, match=r"model\.gguf: not a whole .*pointer of Git LFS"):
        load(file)


@pytest.mark.parametrize("kind", [28, 99])
def test_an_unknown_type_of_tensor_is_named(file: Path, kind: int) -> None:
    """28 are 64-bit floats, which the gguf library knows and does not dequantise."""
    content = bytearray(file.read_bytes())
    name = b"blk.0.attn_norm.weight"
    place = content.index(name) + len(name) + 4 + 8  # after one dimension
    content[place : place + 4] = kind.to_bytes(4, "little")
    file.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"model\.gguf: .*(type F64, which|\(99\)? is not a valid)"
    ):
        load(file)


@pytest.mark.parametrize("name", ["no.gguf", "./no.gguf", "/no/such.gguf", Path("no.gguf")])
def test_a_missing_file_is_named(file: Path, name: str | Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no.*\.gguf"):
        load(name)
    with pytest.raises(FileNotFoundError, match=r"no\.gguf"):
        load(file.parent, gguf_file="no.gguf")


# Memory


def growth_mb_of_gguf(path: Path, small: Path, backend: str, dtype: str) -> float:
    """As `growth_mb`, after what GGUF needs has been imported."""
    load(small, backend=backend, dtype=dtype, device="cpu")
    return growth_mb(path, backend, dtype)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells a peak")
def test_a_model_stands_in_memory_once(tmp_path: Path, tokenizer: Any) -> None:
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 3}
    wide = random_model("llama", **sizes, initializer_range=0.02)
    files = (tmp_path / "wide.gguf", tmp_path / "small.gguf")
    write_gguf(files[0], wide, tokenizer, "Q8_0")
    write_gguf(files[1], random_model("llama"), tokenizer)
    count = sum(parameter.numel() for parameter in wide.parameters())
    for backend, dtype, width in (("hooked", "float32", 4), ("bridge", "bfloat16", 2)):
        if backend in available():
            size = count * width / 1e6
            peak = result_of(growth_mb_of_gguf, *files, backend, dtype)
            assert size / 2 < peak < 1.2 * size + 40, (backend, dtype, peak, size)
