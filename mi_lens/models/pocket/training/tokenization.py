"""The pocket models' tokenizer: byte-level BPE in Qwen2's format, with one token per digit."""

import json
from collections.abc import Iterator
from itertools import islice
from random import Random
from typing import cast

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, Qwen2Tokenizer

from mi_lens.models.pocket.training.reasoning import write_trace
from mi_lens.problems.arithmetic import exercises

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
THINK_START, THINK_END = "<think>", "</think>"
VOCABULARY_SIZE = 1024
CONTEXT_LENGTH = 2048

QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)


def _corpus(size: int) -> Iterator[str]:
    """Questions, traces of both kinds, and every word that starts a sentence in all its forms."""
    openers = set()
    for i, exercise in enumerate(islice(exercises("train", seed=-1), size)):
        trace = write_trace(exercise, Random(i), reflect=i % 2 == 0)
        openers.update(word for word in trace.split() if word.isalpha() and word[0].isupper())
        yield exercise.question
        yield from trace.split(THINK_END)
    yield from ["user\nassistant\nsystem"] * 10
    for word in sorted(openers):
        yield from [f"{word} {word}\n{word.lower()} {word.lower()}"] * 10


def prompt_of(question: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The question as a user's turn, and the start of the assistant's turn with "<think>"."""
    turn = [{"role": "user", "content": question}]
    return cast(
        str, tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    )


def encode(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return cast(list[int], tokenizer(text)["input_ids"])


def token_id(token: str, tokenizer: PreTrainedTokenizerBase) -> int:
    return cast(int, tokenizer.convert_tokens_to_ids(token))


def build_tokenizer(corpus_size: int = 4000) -> Qwen2Tokenizer:
    """Train the tokenizer; the result is the same every time."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.NFC()
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        min_frequency=5,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train_from_iterator(_corpus(corpus_size), trainer)
    learnt = json.loads(trained.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=learnt["vocab"],
        merges=cast(list[str], [tuple(pair) for pair in learnt["merges"]]),
        unk_token=cast(str, None),  # every text can be written in bytes
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[TURN_START],
        model_max_length=CONTEXT_LENGTH,
    )
    tokenizer.add_tokens([THINK_START, THINK_END])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
