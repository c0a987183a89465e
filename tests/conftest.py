"""Tiny random checkpoints, saved as Hugging Face folders: no download, one architecture each."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from hypothesis import settings

from tests.type_checks import check

jaxtyping.jaxtyped = check  # before mi_lens is imported
os.environ.setdefault(
    "HF_HUB_OFFLINE", "1"
)  # before transformers is imported: tests use no network

# Where neither bubblewrap nor namespaces work, the programs of the tests run all the same.
os.environ.setdefault("MI_LENS_TRUST_PROGRAMS", "1")

settings.register_profile("untimed", deadline=None)  # the machine may be busy
settings.load_profile("untimed")
torch.set_num_threads(1)  # tiny tensors: a second thread costs more than it gives

CORPUS = (
    "So let me think about this. First, 12 * 7 = 84 and 84 - 5 = 79.",
    "Wait, let me check that again. Alternatively, I can swap the factors.",
    "Hmm, the product of the two numbers is not what I guessed, therefore I was wrong.",
    "Okay, so the final answer is \\boxed{79}.\n\nNow I am sure that this is right.",
    "A farmer has 37 boxes with 48 apples each; how many apples are left in the boxes?",
)
SPECIAL = ("<|begin|>", "<|end|>", "<|user|>", "<|assistant|>", "<think>", "</think>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|><think>{% endif %}"
)
# Large enough that attention and logits are far from uniform, small enough to stay well-behaved.
ROTARY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
# name -> (config class, its arguments). Between them: grouped and full heads, tied and untied
# embeddings, a head size that is not d_model / heads, rope scaling, windows, softcaps, biases.
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("Qwen2Config", ROTARY | {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", ROTARY | {"head_dim": 16, "tie_word_embeddings": False}),
    "llama": ("LlamaConfig", ROTARY | {"num_key_value_heads": 4, "tie_word_embeddings": True}),
    "llama3": (
        "LlamaConfig",
        ROTARY | {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": False},
    ),
    "mistral": ("MistralConfig", ROTARY | {"sliding_window": 5}),
    "gemma2": (
        "Gemma2Config",
        ROTARY
        | {
            "head_dim": 12,
            "query_pre_attn_scalar": 20,
            "sliding_window": 5,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 8.0,
        },
    ),
    "gemma3": (
        "Gemma3TextConfig",
        ROTARY
        | {
            "head_dim": 12,
            "query_pre_attn_scalar": 20,
            "sliding_window": 5,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
                "full_attention": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.0},
            },
        },
    ),
    "olmo2": ("Olmo2Config", ROTARY),
    "phi3": ("Phi3Config", ROTARY | {"sliding_window": 5}),
    "gpt2": (
        "GPT2Config",
        {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256, "initializer_range": 0.3},
    ),
}

# What only the bridge loads: layers of several kinds, experts, attention sinks, scaled logits.
ALTERNATING = {
    "num_hidden_layers": 3,
    "sliding_window": 5,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
BRIDGED: dict[str, tuple[str, dict[str, Any]]] = {
    "olmo3": (
        "Olmo3Config",
        ROTARY
        | ALTERNATING
        | {
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
                "full_attention": {
                    "rope_type": "yarn",
                    "rope_theta": 10_000.0,
                    "factor": 8.0,
                    "original_max_position_embeddings": 32,
                },
            },
        },
    ),
    "gpt-oss": (
        "GptOssConfig",
        ROTARY | ALTERNATING | {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "smollm3": ("SmolLM3Config", ROTARY | {"no_rope_layers": [1, 0, 1]}),
    "qwen3-moe": (
        "Qwen3MoeConfig",
        ROTARY
        | {
            "head_dim": 8,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
        },
    ),
    "granite": (
        "GraniteConfig",
        ROTARY
        | {
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.4,
            "logits_scaling": 2.0,
            "attention_multiplier": 0.3,
        },
    ),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests begin first: the last file to end should be a short one."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def train_tokenizer(
    special: Sequence[str] = SPECIAL, chat_template: str = CHAT_TEMPLATE, end: str = "<|end|>"
) -> Any:
    """A byte-level BPE like Qwen's: any text encodes, and comes back as it was.

    Args:
        special: Its special tokens; the first begins a text.
        chat_template: Its chat template.
        end: The special token that ends a text.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    words = Regex(r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 2, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=special[0],
        eos_token=end,
        pad_token=end,
        chat_template=chat_template,
        clean_up_tokenization_spaces=False,
    )


def save_checkpoint(folder: Path, architecture: str, tokenizer: Any, **changes: Any) -> Path:
    """Write a random model of an architecture, float32, with its tokenizer.

    Args:
        folder: Where to.
        architecture: A key of `ARCHITECTURES` or `BRIDGED`.
        tokenizer: The tokenizer, or None to write none.
        changes: Config fields that differ.
    """
    import transformers
    from transformers import AutoModelForCausalLM

    config_class, fields = (ARCHITECTURES | BRIDGED)[architecture]
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = getattr(transformers, config_class)(vocab_size=390, **(fields | ends | changes))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:  # norms and biases are initialised to constants
                torch.nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.3)
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder


@contextlib.contextmanager
def compute_in_float64() -> Iterator[None]:
    """Inside, what is computed in float32 whatever the model's dtype is computed in float64.

    Hugging Face's norms, rotary angles and softmax ask for float32 by name, and so a reference to
    compare with at 1e-9 must run in here (but not be read from disk: the reader asks by name too).
    """
    asked = {torch: ("float32", "float"), torch.Tensor: ("float",)}
    before = [(owner, name, getattr(owner, name)) for owner in asked for name in asked[owner]]
    torch.float32 = torch.float = torch.float64
    torch.Tensor.float = torch.Tensor.double
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def load_reference(folder: Path) -> Any:
    """The checkpoint as a Hugging Face model in float64; run it in `compute_in_float64`."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, attn_implementation="eager"
    )
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")  # the fused kernel has no float64
    if hasattr(model.model if hasattr(model, "model") else model, "rotary_emb"):
        with compute_in_float64():  # its frequencies are float32 numbers otherwise
            model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """The tokenizer of all tiny checkpoints, with a chat template."""
    return train_tokenizer()


@pytest.fixture(scope="session")
def architectures() -> list[str]:
    """The names that `checkpoint` knows."""
    return sorted(ARCHITECTURES)


@pytest.fixture(scope="session", params=sorted(ARCHITECTURES))
def architecture(request: pytest.FixtureRequest) -> str:
    """Runs a test once for every architecture."""
    return request.param


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Callable[[str], Path]:
    """`checkpoint("llama3")` is the folder of a tiny model of that kind, to be read only."""
    folders: dict[str, Path] = {}

    def folder(architecture: str) -> Path:
        if architecture not in folders:
            path = tmp_path_factory.mktemp(architecture)
            folders[architecture] = save_checkpoint(path, architecture, tokenizer)
        return folders[architecture]

    return folder


@pytest.fixture
def new_checkpoint(tmp_path: Path, tokenizer: Any) -> Callable[..., Path]:
    """`new_checkpoint("llama", rms_norm_eps=0.1)` is a folder of the test's own, to be changed."""

    def folder(architecture: str, **changes: Any) -> Path:
        return save_checkpoint(tmp_path / architecture, architecture, tokenizer, **changes)

    return folder


@pytest.fixture(scope="session")
def float64_throughout() -> Callable[[], contextlib.AbstractContextManager[None]]:
    """`with float64_throughout():` computes in float64 what is in float32 by name otherwise."""
    return compute_in_float64


@pytest.fixture(scope="session")
def reference() -> Callable[[Path], Any]:
    """`reference(folder)` is Hugging Face's own model in float64, to run in float64 throughout."""
    return load_reference


@pytest.fixture(scope="session")
def tiny_model(checkpoint: Callable[[str], Path]) -> Any:
    """A Qwen2 of 3 layers and 32 dimensions as a HookedTransformer, in float64."""
    import mi_lens.models.backends.lookup
    from mi_lens.models.loading import load

    if "hooked" not in mi_lens.models.backends.lookup.available():
        pytest.skip("this TransformerLens has no HookedTransformer")
    return load(str(checkpoint("qwen2")), backend="hooked", dtype="float64", device="cpu")


@pytest.fixture(scope="session")
def tiny_bridge(checkpoint: Callable[[str], Path]) -> Any:
    """The same Qwen2 as a TransformerBridge, in float64."""
    from mi_lens.models.loading import load

    return load(str(checkpoint("qwen2")), backend="bridge", dtype="float64", device="cpu")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The benchmark, trace and vector files that lie beside the repository."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}")
    return folder
