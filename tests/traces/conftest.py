"""Small tokenizers, each of which writes a blank line as a family of models does."""

from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

TEXT = "So it is 84.\n\nWait, (a)\n\nb:\n\n---\n\nNow, let me verify.\n\n" * 4
THINK = ("<think>", "</think>")
# How Qwen2 and Llama 3 cut a text before they merge: line ends stay with the mark before them.
QWEN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def of_bytes(cut: Any, marks: bool) -> Any:
    """A byte-level tokenizer, trained on TEXT."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = cut
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [TEXT], BpeTrainer(vocab_size=340, show_progress=False, initial_alphabet=alphabet)
    )
    if marks:
        tokenizer.add_tokens([AddedToken(mark, special=False) for mark in THINK])
    return wrapped(tokenizer)


def of_pieces(lines: bool) -> Any:
    """A tokenizer as SentencePiece makes them: bytes for what it has no piece for.

    Args:
        lines: Whether it has pieces for line ends, as Gemma's has, or writes bytes, as Llama 2's.
    """
    vocabulary = {"<unk>": 0} | {f"<0x{byte:02X}>": byte + 1 for byte in range(256)}
    for piece in "▁abcdefghijklmnopqrstuvwxyzSWNA.,()-:48<>/":
        vocabulary[piece] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    if lines:
        added = ["\n", "\n\n", "\n\n\n", *THINK]
        tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in added])
    return wrapped(tokenizer)


def bare(words: dict[str, int]) -> Any:
    """A tokenizer of a few words; "?" stands for all others."""
    return wrapped(Tokenizer(models.WordLevel(words, unk_token="?")), unk_token="?")


def wrapped(tokenizer: Tokenizer, **settings: Any) -> Any:
    """The tokenizer as transformers hands it out."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **settings
    )


@pytest.fixture(scope="session")
def spellings() -> dict[str, Any]:
    """Tokenizers by how they write a blank line."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    qwen = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN), "isolated"), byte_level])
    return {
        "whole": of_bytes(qwen, marks=True),  # ".\n\n" is a token
        "gpt-2": of_bytes(pre_tokenizers.ByteLevel(add_prefix_space=False), marks=False),
        "llama-2": of_pieces(lines=False),
        "gemma": of_pieces(lines=True),  # "\n\n" is an added token
    }


@pytest.fixture(scope="session", params=["whole", "gpt-2", "llama-2", "gemma"])
def spelling(spellings: dict[str, Any], request: pytest.FixtureRequest) -> Any:
    """Runs a test once for each of these tokenizers."""
    return spellings[request.param]
