"""Decodes a pocket model greedily in batches, and can ban words inside the think block.

Only the model cards use this. It calls Hugging Face's own `generate`, so that the numbers on the
cards do not depend on mi_lens's generation loop.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedTokenizerBase

from mi_lens.models.pocket.training.tokenization import THINK_END, TURN_END, token_id


@dataclass(frozen=True)
class Reply:
    """The reply to a prompt.

    Attributes:
        text: The reply, without the token that ends the turn.
        tokens: The tokens of the text.
        finished: Whether the model ended its turn before the limit of tokens.
    """

    text: str
    tokens: tuple[str, ...]
    finished: bool

    @property
    def thinking(self) -> str:
        return self.text.split(THINK_END)[0]


class BanWhileThinking(LogitsProcessor):
    """Forbids the banned tokens in every row that has not closed its think block."""

    def __init__(self, banned: Sequence[int], prompt_length: int, think_end: int):
        self.banned = list(banned)
        self.prompt_length = prompt_length
        self.think_end = think_end

    def __call__(
        self, input_ids: Int[Tensor, "batch pos"], scores: Float[Tensor, "batch vocab"]
    ) -> Float[Tensor, "batch vocab"]:
        thinking = (input_ids[:, self.prompt_length :] != self.think_end).all(1)
        forbidden = torch.zeros_like(scores, dtype=torch.bool)
        forbidden[:, self.banned] = thinking[:, None]
        return scores.masked_fill(forbidden, -torch.inf)


def variants(words: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of the vocabulary items that are one of the words, in any case, with or without space."""
    wanted = {word.lower() for word in words}
    return sorted(
        token
        for item, token in tokenizer.get_vocab().items()
        if item.removeprefix("Ġ").lower() in wanted
    )


@torch.inference_mode()
def reply_to(
    prompts: Sequence[str],
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    banned_words: Iterable[str] = (),
    batch_size: int = 250,
    max_new_tokens: int = 512,
) -> list[Reply]:
    """Continue each prompt greedily.

    Args:
        prompts: Texts that end inside a think block.
        model: A pocket model, as AutoModelForCausalLM loads it.
        tokenizer: Its tokenizer.
        banned_words: Words that no reply may use before its think block closes; see `variants`.
        batch_size: Number of prompts decoded together.
        max_new_tokens: Number of tokens after which a reply is cut.
    """
    banned = variants(banned_words, tokenizer)
    think_end, turn_end = token_id(THINK_END, tokenizer), token_id(TURN_END, tokenizer)
    replies = []
    for start in range(0, len(prompts), batch_size):
        batch = tokenizer(
            list(prompts[start : start + batch_size]),
            return_tensors="pt",
            padding=True,
            padding_side="left",
        ).to(model.device)
        length = batch["input_ids"].shape[1]
        processors = [BanWhileThinking(banned, length, think_end)] if banned else []
        output = model.generate(
            **batch,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            logits_processor=LogitsProcessorList(processors),
        )
        for row in output[:, length:].tolist():
            finished = turn_end in row
            ids = row[: row.index(turn_end)] if finished else row
            tokens = tuple(tokenizer.convert_ids_to_tokens(ids))
            replies.append(Reply(str(tokenizer.decode(ids)), tokens, finished))
    return replies
