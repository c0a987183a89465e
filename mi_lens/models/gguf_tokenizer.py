"""The tokenizer of a GGUF file.

A file names the splitting of text before its merges, `tokenizer.ggml.pre`, and does not say it.
transformers builds a tokenizer that splits as GPT-2's does where it does not know the name, and
leaves out special tokens with letters beyond GPT-2's alphabet, as DeepSeek's; the token ids would
not be those that the model was trained on. So the splittings are here, and others are refused.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONTROL, USER_DEFINED, UNUSED = 3, 4, 5  # llama.cpp's types of tokens
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Splitting:
    """How a byte-level tokenizer cuts text before it merges.

    Attributes:
        pattern: Matches the pieces; None for those of GPT-2.
        lone_digits: Every digit is cut out first.
        whole_words: A piece that is a token stays whole, whatever the merges.
        composed: Text is brought to Unicode's form NFC first.
    """

    pattern: str | None = None
    lone_digits: bool = False
    whole_words: bool = False
    composed: bool = False


QWEN2 = Splitting(WORDS.format(digits=r"\p{N}"), composed=True)
SPLITTINGS = {
    "gpt-2": Splitting(),
    "smollm": Splitting(lone_digits=True),
    "llama-bpe": Splitting(WORDS.format(digits=r"\p{N}{1,3}"), whole_words=True),
    "qwen2": QWEN2,
    "deepseek-r1-qwen": QWEN2,
}


def build_tokenizer(path: Path, value: Any) -> Any:
    """The file's tokenizer, with its chat template; it pads on the left.

    Args:
        path: The file, for messages.
        value: Gives what the file says under a name, or None.

    Raises:
        ValueError: If the file has no tokenizer, or one that cannot be built exactly.
    """
    from transformers import PreTrainedTokenizerFast

    def said(name: str) -> Any:
        return value(f"tokenizer.ggml.{name}")

    tokens, merges, kind = said("tokens"), said("merges"), said("model")
    if not tokens or kind is None:
        raise ValueError(f"{path}: holds no tokenizer; convert the checkpoint with its tokenizer")
    splitting = SPLITTINGS.get(said("pre"))
    if kind != "gpt2" or splitting is None or merges is None:
        raise ValueError(
            f"{path}: its tokenizer is of kind {kind!r} and splits text as {said('pre')!r}; "
            f"expected byte-level BPE, 'gpt2', that splits as one of {', '.join(SPLITTINGS)}: load "
            "the original checkpoint"
        )
    types = said("token_type") or [1] * len(tokens)
    vocabulary = {
        token: number
        for number, (token, type_) in enumerate(zip(tokens, types, strict=True))
        if type_ != UNUSED
    }
    if len(vocabulary) != len(tokens) - types.count(UNUSED):
        raise ValueError(f"{path}: its tokenizer has a token twice; convert the checkpoint again")
    named = {}
    for name in ("bos", "eos", "unknown", "padding"):
        number = said(f"{name}_token_id")
        if number is not None and number not in range(len(tokens)):
            raise ValueError(f"{path}: {name}_token_id is {number!r}, of {len(tokens)} tokens")
        named[name] = None if number is None else tokens[number]
    built = _byte_level(vocabulary, merges, splitting)
    built.add_special_tokens(_added(tokens, types, CONTROL))
    built.add_tokens(_added(tokens, types, USER_DEFINED))
    if said("add_bos_token") and named["bos"] is not None:
        _begin_with(built, named["bos"])
    return PreTrainedTokenizerFast(
        tokenizer_object=built,
        bos_token=named["bos"],
        eos_token=named["eos"],
        unk_token=named["unknown"],
        pad_token=named["padding"] or named["eos"],
        chat_template=value("tokenizer.chat_template"),
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def _byte_level(vocabulary: dict[str, int], merges: list[str], splitting: Splitting) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    pairs: Any = [tuple(merge.split(" ")) for merge in merges]
    built = Tokenizer(
        models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=splitting.whole_words)
    )
    cuts: list[Any] = (
        [pre_tokenizers.Digits(individual_digits=True)] if splitting.lone_digits else []
    )
    if splitting.pattern is not None:
        cuts.append(pre_tokenizers.Split(Regex(splitting.pattern), "isolated"))
    use_regex = splitting.pattern is None
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    built.pre_tokenizer = pre_tokenizers.Sequence([*cuts, to_bytes])
    if splitting.composed:
        built.normalizer = normalizers.NFC()
    built.decoder = decoders.ByteLevel()
    return built


def _added(tokens: list[str], types: list[int], wanted: int) -> list[Any]:
    """The tokens of a type, which are matched whole in a text."""
    from tokenizers import AddedToken

    return [
        AddedToken(token, normalized=False, special=wanted == CONTROL)
        for token, type_ in zip(tokens, types, strict=True)
        if type_ == wanted
    ]


def _begin_with(built: Any, token: str) -> None:
    from tokenizers import processors

    built.post_processor = processors.TemplateProcessing(
        single=[token, "$A"],
        pair=[token, "$A", token, "$B:1"],
        special_tokens=[(token, built.token_to_id(token))],
    )
