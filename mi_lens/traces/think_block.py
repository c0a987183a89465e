"""The think block and its boundaries: which tokens open, close and divide it."""

from functools import lru_cache

from mi_lens.traces.vocabulary import vocabulary


@lru_cache(maxsize=8)
def boundary_ids(tokenizer) -> frozenset[int]:
    r"""The tokens whose string contains a blank line, "\n\n".

    Raises:
        ValueError: If there is no such token. Some tokenizers write every newline as its own token.
    """
    boundaries = frozenset(i for i, string in enumerate(vocabulary(tokenizer)) if "\n\n" in string)
    if not boundaries:
        raise ValueError(
            "no token of this tokenizer contains '\\n\\n', so no state belongs to a boundary "
            "between thoughts; expected a tokenizer such as Qwen2's or Llama 3's"
        )
    return boundaries


@lru_cache(maxsize=8)
def think_ids(tokenizer) -> tuple[int, int] | None:
    """The ids of "<think>" and "</think>", or None unless both are single tokens."""
    ids = tokenizer.get_vocab()
    if "<think>" in ids and "</think>" in ids:
        return ids["<think>"], ids["</think>"]
    return None
