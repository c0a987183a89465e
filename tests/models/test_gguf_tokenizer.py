"""The tokenizer of a GGUF file gives the ids of the tokenizer that was written to it."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from mi_lens.models.gguf_checkpoint import GGUFCheckpoint
from mi_lens.models.gguf_tokenizer import SPLITTINGS, build_tokenizer
from mi_lens.models.loading import load_tokenizer
from tests.conftest import CHAT_TEMPLATE, CORPUS
from tests.gguf_files import write_gguf
from tests.models.test_gguf_checkpoint import random_model

TEXTS = (
    "So 12 * 7 = 84, and\n\n3.  1234567890 apples' \n\n  cost 7 €; I'll it's WE'LL\t\tfoo_bar!\r\n",
    "e\u0301te\u0301 Straße 数学 ²³ ٣٤ \u00a0\u3000x",
    "<｜User｜>2+2?<｜Assistant｜><think>\n4</think>\n\n**4**<|end|>",
)
# DeepSeek's special tokens are written with letters that no byte stands for.
ADDED = [
    AddedToken("<|begin|>", normalized=False, special=True),
    AddedToken("<|end|>", normalized=False, special=True),
    AddedToken("<｜User｜>", normalized=False, special=True),
    AddedToken("<｜Assistant｜>", normalized=False, special=True),
    AddedToken("<think>", normalized=False, special=False),
    AddedToken("</think>", normalized=False, special=False),
]


def trained(split: Any) -> Any:
    """A byte-level tokenizer whose merges were learned on text cut by a pre-tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = split
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([*CORPUS, *TEXTS] * 2, trainer)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def as_smollm() -> Any:
    """SmolLM's: every digit alone, then GPT-2's pieces."""
    digits = pre_tokenizers.Digits(individual_digits=True)
    return trained(
        pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    )


def as_gpt2() -> Any:
    """GPT-2's pieces."""
    return trained(pre_tokenizers.ByteLevel(add_prefix_space=False))


def as_qwen2() -> Any:
    """transformers' own class for Qwen2's tokenizer, which composes accents."""
    from transformers import Qwen2Tokenizer

    plain = json.loads(as_gpt2().to_str())["model"]
    merges: Any = [tuple(pair) for pair in plain["merges"]]
    return Qwen2Tokenizer(vocab=plain["vocab"], merges=merges).backend_tokenizer


def as_llama3() -> Any:
    """transformers' pattern for tokenizers of tiktoken's kind; some tokens have no merges."""
    from transformers.convert_slow_tokenizer import TikTokenConverter

    cut = pre_tokenizers.Split(Regex(TikTokenConverter().pattern), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = pre_tokenizers.Sequence([cut, to_bytes])
    learned = json.loads(trained(split).to_str())["model"]
    merges = [tuple(pair) for pair in learned["merges"]][:-60]
    tokenizer = Tokenizer(models.BPE(learned["vocab"], merges, ignore_merges=True))
    tokenizer.pre_tokenizer, tokenizer.decoder = split, decoders.ByteLevel()
    return tokenizer


ORIGINALS = {
    "gpt-2": as_gpt2,
    "smollm": as_smollm,
    "qwen2": as_qwen2,
    "deepseek-r1-qwen": as_qwen2,
    "llama-bpe": as_llama3,
}


@pytest.fixture(scope="module", params=ORIGINALS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: Any) -> tuple[Any, Any]:
    """A tokenizer, and the one read from the file that it was written to."""
    from transformers import PreTrainedTokenizerFast

    built = ORIGINALS[request.param]()
    built.add_special_tokens([token for token in ADDED if token.special])
    built.add_tokens([token for token in ADDED if not token.special])
    original = PreTrainedTokenizerFast(
        tokenizer_object=built,
        bos_token="<|begin|>",
        eos_token="<|end|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
    path = tmp_path_factory.mktemp("tokenizer") / "model.gguf"
    model = random_model("qwen2", vocab_size=max(original.get_vocab().values()) + 9)
    write_gguf(path, model, original, pre=request.param)
    return original, load_tokenizer(path)


def test_every_splitting_is_tested() -> None:
    assert ORIGINALS.keys() == SPLITTINGS.keys()


def require_same(pair: tuple[Any, Any], text: str) -> None:
    original, read = pair
    ids = original.encode(text)
    assert read.encode(text) == ids
    assert read.decode(ids) == original.decode(ids)
    words = {"skip_special_tokens": True}
    assert read.decode(ids, **words) == original.decode(ids, **words)


@pytest.mark.parametrize("text", TEXTS)
def test_text_becomes_the_same_ids(pair: tuple[Any, Any], text: str) -> None:
    require_same(pair, text)


@given(text=st.text(max_size=60))
def test_any_text_becomes_the_same_ids(pair: tuple[Any, Any], text: str) -> None:
    require_same(pair, text)


@given(words=st.lists(st.sampled_from([*" \n\t12a'.", "'ll", "<think>", "é", "€"]), max_size=30))
def test_any_run_of_spaces_digits_and_signs_becomes_the_same_ids(
    pair: tuple[Any, Any], words: list[str]
) -> None:
    require_same(pair, "".join(words))


def test_names_and_template_are_the_files(pair: tuple[Any, Any]) -> None:
    original, read = pair
    assert read.get_vocab() == original.get_vocab()
    assert (read.bos_token_id, read.eos_token_id) == (original.bos_token_id, original.eos_token_id)
    assert read.pad_token_id == read.eos_token_id
    assert read.padding_side == "left"
    assert read.chat_template == CHAT_TEMPLATE
    special = [
        {number: token.special for number, token in each.added_tokens_decoder.items()}
        for each in (original, read)
    ]
    assert special[0] == special[1]


def test_a_beginning_is_added_if_the_file_says_so(tmp_path: Path, tokenizer: Any) -> None:
    path = tmp_path / "model.gguf"
    changes: dict[str, Any] = {"tokenizer.ggml.add_bos_token": True}
    write_gguf(path, random_model("qwen2"), tokenizer, **changes)
    read = load_tokenizer(path)
    assert read.encode("So 3") == [0, *tokenizer.encode("So 3")]
    assert read.encode("So 3", add_special_tokens=False) == tokenizer.encode("So 3")


def test_a_token_twice_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, random_model("qwen2"), tokenizer)
    value = GGUFCheckpoint(path).value
    tokens = value("tokenizer.ggml.tokens")
    tokens[300] = tokens[301]
    write_gguf(path, random_model("qwen2"), tokenizer, **{"tokenizer.ggml.tokens": tokens})
    with pytest.raises(ValueError, match=r"model\.gguf: .*a token twice"):
        build_tokenizer(path, GGUFCheckpoint(path).value)
