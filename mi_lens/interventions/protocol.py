"""The interface between the decode loop and interventions.

The loop keeps a `Row` for every running generation. An `Intervention` is a frozen dataclass of
settings. Bound to a model it becomes an `Action`; the loop calls the action's methods only with the
rows whose condition has this intervention. Neither this module nor any intervention knows the loop.

In every step of a row the loop calls, in this order:

    will_edit    says whether the action will change states while the next token is read
    edit         changes states at the action's hook names while the token is read
    logits       changes the next-token logits
    sampling     changes how the candidate is drawn from the logits
    recycling    says whether a layer runs again, given the candidate or the token read
    replace      replaces the candidate, and may force tokens after it
"""

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_lens.interventions.again import Recycling, Trigger, blocks_until
from mi_lens.interventions.plain_hooks import PlainPasses, by_rows, rows_of
from mi_lens.interventions.row import Rewound, Row
from mi_lens.interventions.sampling import Sampling
from mi_lens.models.backends.lookup import backend_of
from mi_lens.models.model import Model
from mi_lens.problems.problem import Problem


class Action:
    """What an intervention does on one model. Methods do nothing unless overridden.

    Attributes:
        hook_names: The hook names at which the loop calls `edit`.
        recycled_layer: The layer whose block `recycling` may run again; None if there is none.
        recycled_count: How many blocks may run again as one, of which `recycled_layer` is the last.
        recycled_when: When `recycling` is asked: "consumed" means while a token is read,
            "candidate" means once a candidate is drawn.
        needs_tokens: Whether what the action does depends on which tokens the row has.
        measures_entropy: Whether it needs the entropy of the row's logits, as "entropy" among the
            row's numbers.
        by_position: Whether `edit` makes each state's new one of that state and the row's tokens
            alone. If not, a trace's whole prompt is read at once, however long it is.
        tries: Whether the action begins trials (`Row.attempt`).
    """

    hook_names: Sequence[str] = ()
    recycled_layer: int | None = None
    recycled_count: int = 1
    recycled_when: Trigger = "candidate"
    needs_tokens: bool = True
    measures_entropy: bool = False
    by_position: bool = False
    tries: bool = False

    def edit(
        self, hook_name: str, states: Float[Tensor, "rows pos d"], rows: Sequence[Row]
    ) -> Float[Tensor, "rows pos d"]:
        """New states at a hook name; the last `row.reading` positions of a row are its tokens."""
        return states

    def will_edit(self, row: Row) -> bool:
        """Whether the action may change states while the row reads its current tokens.

        If it does not, the row shares its state with other conditions of the same prompt. The
        default is True for an action that has hook names or recycles consumed tokens.
        """
        consumes = self.recycled_layer is not None and self.recycled_when == "consumed"
        return bool(self.hook_names) or consumes

    def logits(
        self, logits: Float[Tensor, "rows d_vocab"], rows: Sequence[Row]
    ) -> Float[Tensor, "rows d_vocab"]:
        """New next-token logits."""
        return logits

    def sampling(self, row: Row, sampling: Sampling) -> Sampling:
        """How the row's next token is drawn."""
        return sampling

    @property
    def gates_sampling(self) -> bool:
        """Whether the device decides on `opened_sampling`, by `open_now`."""
        return False

    def opened_sampling(self, row: Row, sampling: Sampling) -> Sampling:
        """How the row's next token is drawn where `open_now` is True."""
        return sampling

    def open_now(self, rows: Sequence[Row], device: torch.device) -> Bool[Tensor, " rows"]:
        """Where `opened_sampling` takes the place of `sampling`; on the device."""
        raise NotImplementedError

    def edit_again(
        self, hook_name: str, states: Float[Tensor, "1 pos *d"], rewound: Rewound, start: int
    ) -> Float[Tensor, "1 pos *d"]:
        """What `edit` made of a row's states while it was generated, when they are read again.

        Args:
            hook_name: Where the states are.
            states: States of the positions from `start` on.
            rewound: The row.
            start: The first position.

        Raises:
            ValueError: If these are some of the positions that the first step read, and the action
                must see all of them (`by_position`).
        """
        parts = []
        for first, stop in rewound.steps(start, start + states.shape[1]):
            part = states[:, first - start : stop - start]
            if self.will_edit(rewound.row):
                part = self._edit_part(hook_name, part, rewound, first)
            parts.append(part)
        return torch.cat(parts, dim=1)

    def _edit_part(
        self, hook_name: str, part: Float[Tensor, "1 pos *d"], rewound: Rewound, first: int
    ) -> Float[Tensor, "1 pos *d"]:
        """What `edit` makes of some of the positions that a step read."""
        row, stop = rewound.row, first + part.shape[1]
        if part.shape[1] == row.reading:
            return self.edit(hook_name, part, [row])
        if not self.by_position:
            raise ValueError(
                f"positions {first} to {stop - 1} are read; expected the first {rewound.first} at "
                "once, which the generation read in its first step"
            )
        whole = part.new_zeros(1, row.reading, *part.shape[2:])
        whole[:, first:stop] = part
        return self.edit(hook_name, whole, [row])[:, first:stop]

    def fwd_hooks(
        self, model: Model, rows: Sequence[Rewound], name: str
    ) -> list[tuple[str, Callable[..., Any]]]:
        """See `Intervention.fwd_hooks`; `name` is the intervention's, for errors."""
        passes = PlainPasses(rows, name if self.needs_tokens else None)
        hooks = self.plain_hooks(model, passes, name)
        if not hooks:
            raise ValueError(
                f"{name} changes how a token is chosen, which no hook can; use mi_lens.generate. A "
                "pass over given tokens it leaves as it is"
            )
        tokens_hook = backend_of(model).tokens_hook(model)
        return [(tokens_hook, passes.see), *hooks] if tokens_hook else hooks

    def plain_hooks(
        self, model: Model, passes: PlainPasses, name: str
    ) -> list[tuple[str, Callable[..., Any]]]:
        """The hooks of `fwd_hooks` that change something."""
        hooks: list[tuple[str, Callable[..., Any]]] = [
            (hook_name, partial(self._edit_plainly, passes, hook_name))
            for hook_name in self.hook_names
        ]
        if self.changes_logits:
            if (model.cfg.output_logits_soft_cap or 0) > 0:
                raise ValueError(
                    f"{name} changes logits, and this model caps them behind its last hook; use "
                    "mi_lens.generate"
                )
            hooks.append(("unembed.hook_out", partial(self._change_plainly, passes)))
        return hooks

    def _edit_plainly(
        self, passes: PlainPasses, hook_name: str, states: Tensor, hook: Any
    ) -> Tensor:
        edited = [
            self.edit_again(hook_name, states[i : i + 1, column:], row, start)
            for i, (row, column, start) in enumerate(passes.parts(hook_name, states.shape[1]))
        ]
        return by_rows(edited, states)

    def _change_plainly(
        self, passes: PlainPasses, logits: Float[Tensor, "batch pos d_vocab"], hook: Any
    ) -> Float[Tensor, "batch pos d_vocab"]:
        logits = logits.clone()
        for i, (row, column, start) in enumerate(passes.parts("logits", logits.shape[1])):
            for place in range(column, logits.shape[1]):
                read = start + place - column + 1
                if read >= len(row.row.prompt_ids):
                    logits[i, place : place + 1] = self.logits(
                        logits[i, place : place + 1], [row.at(read)]
                    )
        return logits

    @property
    def recycled_blocks(self) -> range:
        """The blocks that may run again as one; empty if there are none."""
        return blocks_until(self.recycled_layer, self.recycled_count)

    @property
    def innermost(self) -> "Action":
        """The action itself; of a gate, the action inside."""
        return self

    @property
    def changes_logits(self) -> bool:
        """Whether the action changes logits."""
        return type(self).logits is not Action.logits

    def recycling(self, row: Row) -> Recycling | None:
        """How the block of `recycled_layer` runs again for the row now; None if it does not."""
        return None

    def recycled_again(self, rewound: Rewound) -> dict[int, Recycling]:
        """How the block ran again while a row was generated, by position, as its events say."""
        recycled = {}
        for event in rewound.events:
            if event["what"] == "recycle" and event["layer"] == self.recycled_layer:
                read = len(rewound.row.prompt_ids) + event["step"]
                row = rewound.at(read)
                row.candidate = event.get("wanted")
                recycled[read - 1] = self.recycling(row)
        return recycled

    def replace(self, row: Row, candidate: int, end_ids: frozenset[int]) -> int:
        """The token to accept; may add to `row.forced`. The tokens `end_ids` end a generation."""
        return candidate


@runtime_checkable
class Intervention(Protocol):
    """A frozen dataclass of JSON-able settings that can act on a model.

    To write your own, subclass this and `Action`, and put an instance into a `Condition`.
    """

    def bind(self, model: Model) -> Action:
        """The intervention's action on a model.

        Raises:
            ValueError: If a layer, hook name, word or width does not fit the model.
        """
        ...

    def fwd_hooks(self, model: Model, what: Any) -> list[tuple[str, Callable[..., Any]]]:
        """The intervention as plain hooks, for TransformerLens's own functions.

        They are for `run_with_hooks`, `model.hooks` and `run_with_cache` on all tokens of `what`,
        with or without the last generated one, padded on the left; and for `generate` on prompts.
        There, a HookedTransformer tells no hook which tokens it reads, and what must know them is
        refused.

        Args:
            model: A HookedTransformer or TransformerBridge with its tokenizer.
            what: A trace or traces; a `Row` or rows; or token ids of a prompt, or of prompts of the
                same length.

        Raises:
            ValueError: If the intervention does not fit the model, or no hook can do what it does.
        """
        return self.bind(model).fwd_hooks(model, rows_of(model.tokenizer, what), repr(self))

    def check(self, problem: Problem) -> None:
        """Raises a ValueError if the intervention must not be tried on the problem."""
        return

    def check_model(self, fingerprint: str) -> None:
        """Warns if the intervention was made for another model than that of the fingerprint."""
        return

    def to_json(self) -> dict[str, Any]:
        """JSON-able settings, without the name of the class."""
        ...


def to_json(intervention: Intervention) -> dict[str, Any]:
    """An intervention's settings, with the name of its class as "kind"."""
    settings = json.loads(json.dumps(intervention.to_json(), allow_nan=False))
    return {"kind": type(intervention).__name__, **settings}
