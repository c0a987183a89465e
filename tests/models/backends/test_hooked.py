"""What is HookedTransformer's own: shapes from the config, weights taken over as they are."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mi_lens.models.backends.lookup import available, get_backend
from mi_lens.models.loading import load

pytestmark = pytest.mark.skipif(
    "hooked" not in available(), reason="this TransformerLens has no HookedTransformer"
)
NewCheckpoint = Callable[..., Path]


def load_hooked(folder: Path) -> Any:
    return load(folder, backend="hooked", device="cpu")


def test_a_name_does_not_decide_the_architecture(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "my-llama-tests"
    folder.symlink_to(checkpoint("gpt2"))
    model = load_hooked(folder)
    assert model.cfg.original_architecture == "GPT2LMHeadModel"
    assert model.cfg.positional_embedding_type == "standard"


@pytest.mark.parametrize("architecture", ["qwen3", "mistral"])
def test_contexts_are_not_cut_short(new_checkpoint: NewCheckpoint, architecture: str) -> None:
    model = load_hooked(new_checkpoint(architecture, max_position_embeddings=2400))
    assert model.cfg.n_ctx == 2400
    tokens = torch.full((1, 2100), 7)
    logits = get_backend("hooked").forward(model, tokens, torch.ones_like(tokens), 1)
    assert logits.isfinite().all()


def test_windows_are_those_of_the_config(checkpoint: Callable[[str], Path]) -> None:
    gemma = load_hooked(checkpoint("gemma2"))
    assert gemma.cfg.attn_types == ["local", "global", "local"]
    assert gemma.cfg.window_size == 5
    assert load_hooked(checkpoint("mistral")).cfg.attn_types == ["local"] * 3
    assert not load_hooked(checkpoint("qwen2")).cfg.use_local_attn


def test_a_qwen2_with_windows_has_them(new_checkpoint: NewCheckpoint) -> None:
    folder = new_checkpoint("qwen2", use_sliding_window=True, sliding_window=6, max_window_layers=1)
    model = load_hooked(folder)
    assert model.cfg.window_size == 6
    assert model.cfg.attn_types == ["global", "local", "local"]


HALF_TURNED = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}


@pytest.mark.parametrize(
    ("architecture", "changes", "named"),
    [
        ("llama", {"attention_bias": True}, "attention_bias"),
        ("llama", {"mlp_bias": True}, "mlp_bias"),
        ("qwen3", {"attention_bias": True}, "attention_bias"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "'dynamic'"),
        ("phi3", {"rope_parameters": HALF_TURNED}, "partial_rotary_factor"),
    ],
)
def test_what_hooked_transformer_would_get_wrong_is_refused(
    new_checkpoint: NewCheckpoint, architecture: str, changes: dict[str, Any], named: str
) -> None:
    folder = new_checkpoint(architecture, **changes)
    with pytest.raises(ValueError, match="bridge") as error:
        load_hooked(folder)
    assert named in str(error.value)
    assert load(folder, backend="bridge", device="cpu").cfg.n_layers == 3


def test_weights_are_as_trained(checkpoint: Callable[[str], Path]) -> None:
    from safetensors.torch import load_file

    folder = checkpoint("llama3")
    stored = load_file(folder / "model.safetensors")
    model = load_hooked(folder)
    block = model.blocks[1]
    assert torch.equal(block.ln1.w, stored["model.layers.1.input_layernorm.weight"])
    assert torch.equal(block.mlp.W_out.T, stored["model.layers.1.mlp.down_proj.weight"])
    heads = stored["model.layers.1.self_attn.q_proj.weight"].unflatten(0, (4, -1))
    assert torch.equal(block.attn.W_Q, heads.transpose(1, 2))
    assert torch.equal(model.W_U.T, stored["lm_head.weight"])


def test_no_matrix_is_copied_in_a_forward_pass(checkpoint: Callable[[str], Path]) -> None:
    model = load_hooked(checkpoint("qwen2"))
    for weight in (
        *(block.mlp.W_in for block in model.blocks),
        *(block.mlp.W_gate for block in model.blocks),
        *(block.mlp.W_out for block in model.blocks),
        model.unembed.W_U,
    ):
        assert weight.T.is_contiguous()
    for block in model.blocks:
        for weight in (block.attn.W_Q, block.attn._W_K, block.attn._W_V):
            assert weight.transpose(1, 2).is_contiguous()
        assert block.attn.W_O.permute(2, 0, 1).is_contiguous()


@pytest.mark.parametrize(("architecture", "tied"), [("qwen2", True), ("qwen3", False)])
def test_tied_embeddings_share_memory(
    checkpoint: Callable[[str], Path], architecture: str, tied: bool
) -> None:
    model = load_hooked(checkpoint(architecture))
    shared = model.embed.W_E.data_ptr() == model.unembed.W_U.data_ptr()
    assert shared == tied


def test_gemma_in_bfloat16_stays_in_bfloat16(checkpoint: Callable[[str], Path]) -> None:
    model = load(checkpoint("gemma2"), backend="hooked", dtype="bfloat16", device="cpu")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    tokens = torch.tensor([[6, 9, 12]])
    assert model(tokens, attention_mask=torch.ones_like(tokens)).dtype == torch.bfloat16


def test_the_model_is_named_after_its_source(new_checkpoint: NewCheckpoint) -> None:
    folder = new_checkpoint("llama")
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert load_hooked(folder).cfg.model_name.endswith("llama")


def test_key_heads_may_be_repeated_for_every_query_head(checkpoint: Callable[[str], Path]) -> None:
    """TransformerLens's switch for patching the keys of single heads goes on working."""
    model = load_hooked(checkpoint("qwen2"))
    tokens = torch.tensor([[6, 9, 12, 300]])
    mask = torch.ones_like(tokens)
    expected = model(tokens, attention_mask=mask)
    model.set_ungroup_grouped_query_attention(True)
    shapes = []
    hook = ("blocks.1.attn.hook_k", lambda keys, hook: shapes.append(tuple(keys.shape)))
    with model.hooks(fwd_hooks=[hook]):
        logits = model(tokens, attention_mask=mask)
    assert shapes == [(1, 4, 4, 8)]
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of TransformerLens
def test_a_model_built_from_a_config_is_told_what_it_lacks():
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    config = HookedTransformerConfig(
        n_layers=1, d_model=8, n_ctx=16, d_head=4, act_fn="gelu", d_vocab=390, device="cpu"
    )
    model = HookedTransformer(config)
    with pytest.raises(ValueError, match=r"None: .*say in model.cfg.original_architecture which"):
        get_backend("hooked").new_cache(model, 1)
