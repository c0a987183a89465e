"""Which tokens a plain forward pass reads, for interventions as plain hooks.

TransformerLens gives a hook the activations and no tokens. So hooks are made for rows whose tokens
are known. A pass over all of these is recognised by its width; passes over single positions, as in
TransformerLens's `generate`, go on behind it. What these read is known only where a hook sees the
tokens: a TransformerBridge has one, a HookedTransformer only with `use_hook_tokens=True`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mi_lens.interventions.row import Rewound, Row
from mi_lens.traces.trace import Trace

UNKNOWN = -1  # a token that no hook has seen


def rows_of(tokenizer: Any, what: Any) -> list[Rewound]:
    """Rows for the tokens that a plain forward pass reads.

    Args:
        tokenizer: The model's tokenizer.
        what: A trace or traces; a `Row` or rows; or the token ids of a prompt, or of prompts of the
            same length, as integers or as a tensor.

    Raises:
        ValueError: If it is none of these, or empty.
    """
    if isinstance(what, Trace | Row):
        what = [what]
    if isinstance(what, Tensor):
        what = what.tolist()
    if isinstance(what, Sequence) and what and all(isinstance(item, int) for item in what):
        what = [what]
    rows = []
    for item in what if isinstance(what, Sequence) and not isinstance(what, str) else ():
        if isinstance(item, Trace):
            rows.append(Rewound.of(tokenizer, item))
        elif isinstance(item, Row):
            rows.append(Rewound(item, len(item.prompt_ids)))
        elif isinstance(item, Sequence) and item and all(isinstance(i, int) for i in item):
            rows.append(Rewound(Row(tokenizer, tuple(item), 0, 0), len(item)))
    if not rows or len(rows) != len(what):
        raise ValueError(
            f"fwd_hooks got {str(what)[:60]!r}; expected a trace, traces, rows, or the token ids "
            "of prompts"
        )
    return rows


class PlainPasses:
    """Which positions of its rows each plain forward pass reads.

    Args:
        rows: Rows with their tokens.
        needs_tokens: What must know the tokens, for the error where they are unknown; None if
            nothing must.
    """

    def __init__(self, rows: Sequence[Rewound], needs_tokens: str | None):
        self.rows, self.needs_tokens = rows, needs_tokens
        self.lengths = [row.length for row in rows]
        self.width = max(self.lengths)
        # The last generated token need not be read.
        self.shortest = self.width - all(row.length > row.first for row in rows)
        self._read: dict[str, int] = {}

    def see(self, tokens: Tensor, hook: Any) -> None:
        """The hook that sees the tokens of a pass."""
        behind = self._read_at("tokens", tokens.shape[1])
        for row, length, ids in zip(self.rows, self.lengths, tokens.tolist(), strict=True):
            if behind > 0:
                row.put(length + behind - 1, ids[0])
            elif ids[self.width - length :] != row.ids[: len(ids) - (self.width - length)]:
                raise ValueError(
                    f"a pass reads the tokens {ids[:8]}..., and these hooks are for "
                    f"{row.ids[:8]}...; make hooks for the tokens that are read"
                )

    def parts(self, name: str, width: int) -> list[tuple[Rewound, int, int]]:
        """For every row, its first column in the pass, and that column's position in the row.

        Raises:
            ValueError: If the pass is over other positions, or reads a token that must be known.
        """
        behind = self._read_at(name, width)
        if behind <= 0:
            return [
                (row, self.width - length, 0)
                for row, length in zip(self.rows, self.lengths, strict=True)
            ]
        parts = []
        for row, length in zip(self.rows, self.lengths, strict=True):
            position = length + behind - 1
            if row.length <= position:
                if self.needs_tokens:
                    raise ValueError(
                        f"{self.needs_tokens} must know which token is read, and no hook of this "
                        "model tells it while TransformerLens generates; use mi_lens.generate, a "
                        "TransformerBridge, or a HookedTransformer with use_hook_tokens=True"
                    )
                row.put(position, UNKNOWN)
            parts.append((row, 0, position))
        return parts

    def _read_at(self, name: str, width: int) -> int:
        """How far behind the known tokens a pass is, which has come to a hook; at most 0 if not."""
        if self.shortest <= width <= self.width:
            self._read[name] = width
        elif width == 1 and self._read.get(name, 0) >= self.width:
            self._read[name] += 1
        else:
            expected = " or ".join(map(str, range(self.shortest, self.width + 1)))
            raise ValueError(
                f"a pass over {width} positions, and these hooks are for {expected}; make hooks "
                "for the tokens that are read"
            )
        return self._read[name] - self.width


def by_rows(parts: Sequence[Tensor], padding: Tensor) -> Tensor:
    """Rows put together, each behind its padding, which is taken from `padding`."""
    width = padding.shape[1]
    return torch.cat(
        [
            torch.cat([padding[i : i + 1, : width - part.shape[1]], part], dim=1)
            for i, part in enumerate(parts)
        ]
    )
