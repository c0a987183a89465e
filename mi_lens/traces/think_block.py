"""The think block and its boundaries: which tokens open, close and divide it."""

from functools import lru_cache

from mi_lens.traces.vocabulary import vocabulary


@lru_cache(maxsize=8)
def boundary_ids(tokenizer) -> frozenset[int]:
    r"""The tokens whose string contains a blank line, "\n\n".

    Raises:
        ValueError: If there are none, as with tokenizers that write every newline by itself.
    """
    found = frozenset(i for i, string in enumerate(vocabulary(tokenizer)) if "\n\n" in string)
    if not found:
        raise ValueError(
            "no token of this tokenizer contains '\\n\\n', so no state stands at a boundary "
            "between thoughts; expected a tokenizer such as Qwen2's or Llama 3's"
        )
    return found


@lru_cache(maxsize=8)
def think_ids(tokenizer) -> tuple[int, int] | None:
    """The ids of "<think>" and "</think>", or None where these are not both single tokens."""
    ids = tokenizer.get_vocab()
    if "<think>" in ids and "</think>" in ids:
        return ids["<think>"], ids["</think>"]
    return None
