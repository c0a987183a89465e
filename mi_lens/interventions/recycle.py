"""Representation recycling: at thinking tokens, a block runs again on its own output.

Paper 1: h' = block_l(h_{l-1}), then h_l = block_l(h'); the other layers run as usual. The paper's
text and its released code differ in which position is recycled:

    candidate  The code: when the logits propose a thinking token, block l runs again at the
               position that emits it. The layers above and the logits are computed again, and the
               token is drawn from the new logits; it may be a different one.
    consumed   The text: block l runs again at the position that reads a thinking token, within the
               same forward pass.

The state h' is the block's output after other hooks. No hook fires in the further runs of the
block. With "candidate", hooks of the layers above fire again for the position.
"""

from collections.abc import Callable, Set
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mi_lens.interventions.plain_hooks import PlainPasses, by_rows
from mi_lens.interventions.protocol import Action, Intervention, Recycling, Trigger
from mi_lens.interventions.row import Rewound, Row
from mi_lens.interventions.words import Worded
from mi_lens.models.backends.lookup import backend_of
from mi_lens.models.hook_names import block_output, layer_of_output
from mi_lens.models.model import Model
from mi_lens.models.self_check import require_able
from mi_lens.traces.vocabulary import Words, word_ids


@dataclass(frozen=True)
class Recycle(Worded, Intervention):
    """Runs a layer again at words (RR, paper 1).

    Attributes:
        layer: The hook name of the layer's output, such as "blocks.23.hook_resid_post"; a layer
            number is converted to it.
        words: Words, each with every surface form that is a single token; or token ids.
        passes: Number of further runs of the block.
        trigger: "candidate" (the released code) or "consumed" (the text), as above. Tokens of
            prompts and prefixes do not trigger.
        kv: What later tokens attend to in this layer: "replace" means the keys and values of the
            last run (the released code), "keep" means those of the first run.
        probability: Chance of recycling at each trigger; the released code uses 0.5. It is drawn
            with the request's seed.
    """

    layer: str | int
    words: Words
    passes: int = 1
    trigger: Trigger = "candidate"
    kv: Literal["replace", "keep"] = "replace"
    probability: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.layer, int):
            object.__setattr__(self, "layer", block_output(self.layer))
        if layer_of_output(str(self.layer)) is None:
            raise ValueError(
                f"layer={self.layer!r}: expected a layer number or the hook name of a block's "
                f"output, such as {block_output(12)!r}"
            )
        if self.passes < 1:
            raise ValueError(f"passes={self.passes}: expected at least 1 further run of the block")
        if self.trigger not in ("candidate", "consumed"):
            raise ValueError(f"trigger={self.trigger!r}: expected 'candidate' or 'consumed'")
        if self.kv not in ("replace", "keep"):
            raise ValueError(f"kv={self.kv!r}: expected 'replace' or 'keep'")
        if not 0 < self.probability <= 1:
            raise ValueError(f"probability={self.probability}: expected above 0, at most 1")

    def bind(self, model: Model) -> Action:
        """See `Intervention.bind`."""
        layer = layer_of_output(str(self.layer))
        assert layer is not None  # refused above
        if layer >= model.cfg.n_layers:
            raise ValueError(
                f"layer={self.layer!r}: the model has {model.cfg.n_layers} layers, blocks.0 to "
                f"blocks.{model.cfg.n_layers - 1}"
            )
        require_able(model, "recycle")
        return _Recycle(self, layer, word_ids(model, self.words))

    def to_json(self):
        """See `Intervention.to_json`."""
        return asdict(self)


class _Recycle(Action):
    def __init__(self, settings: Recycle, layer: int, ids: Set[int]):
        self.layer = self.recycled_layer = layer
        self.recycled_when = settings.trigger
        self.order = Recycling(settings.passes, settings.kv == "keep")
        self.probability, self.ids = settings.probability, ids

    def plain_hooks(
        self, model: Model, passes: PlainPasses, name: str
    ) -> list[tuple[str, Callable[..., Any]]]:
        """See `Action.plain_hooks`.

        The block runs by itself, behind a cache of its own. From a row's first recycled position on
        its output is that one: other hooks act on the block's input, but not inside it.

        With "candidate", a hook cannot know what the logits will propose. It recycles what the
        events of a trace say, or one step: the last position of a `Row` whose candidate is set.
        """
        told = all(row.events or row.candidate is not None for row in passes.rows)
        if self.recycled_when == "candidate" and not told:
            raise ValueError(
                f"{name}: a hook cannot know the candidate, which comes after it; give a trace "
                "that was generated under it, a Row with its candidate, or use trigger='consumed'"
            )
        return _PlainRecycling(self, model, passes).hooks()

    def will_edit(self, row: Row) -> bool:
        """See `Action.will_edit`."""
        reads_token = self.recycled_when == "consumed" and row.reading == 1
        return reads_token and self.recycling(row) is not None

    def recycling(self, row: Row) -> Recycling | None:
        """See `Action.recycling`."""
        if self.recycled_when == "candidate":
            token = row.candidate
        else:
            token = row.token_ids[-1] if row.token_ids else None
        if token not in self.ids:
            return None
        if self.probability < 1 and row.uniform("recycle") >= self.probability:
            return None
        return self.order


class _PlainRecycling:
    """The hooks of `_Recycle.plain_hooks`: one keeps the block's input, one gives its output."""

    def __init__(self, action: _Recycle, model: Model, passes: PlainPasses):
        self.action, self.model, self.passes = action, model, passes
        self.backend, self.layer = backend_of(model), action.layer
        self.told = [action.recycled_again(row) for row in passes.rows]
        self.caches: list[Any] = []
        self.recycled: list[bool] = []
        self.inputs: Tensor | None = None

    def hooks(self) -> list[tuple[str, Callable[..., Any]]]:
        layer = self.layer
        return [(f"blocks.{layer}.hook_resid_pre", self.keep), (block_output(layer), self.act)]

    def keep(self, states: Float[Tensor, "batch pos d"], hook: Any) -> None:
        self.inputs = states

    def act(self, states: Float[Tensor, "batch pos d"], hook: Any) -> Float[Tensor, "batch pos d"]:
        assert self.inputs is not None
        parts = self.passes.parts("block", states.shape[1])
        if not parts[0][2]:  # a pass begins
            self.caches = [self.backend.new_cache(self.model, 1) for _ in parts]
            self.recycled = [False for _ in parts]
        outputs = [
            self.run(i, row, self.inputs[i : i + 1, column:], states[i : i + 1, column:], start)
            for i, (row, column, start) in enumerate(parts)
        ]
        return by_rows(outputs, states)

    def run(
        self,
        i: int,
        row: Rewound,
        inputs: Float[Tensor, "1 pos d"],
        states: Float[Tensor, "1 pos d"],
        start: int,
    ) -> Float[Tensor, "1 pos d"]:
        """A row's outputs of the block, which runs from one recycled position to the next."""
        stop = start + states.shape[1]
        positions = {at: self.recycling(i, row, at) for at in range(start, stop)}
        ends = [at + 1 for at, recycling in positions.items() if recycling is not None]
        outputs, first = [], start
        for end in dict.fromkeys([*ends, stop]):
            output = self.backend.block(
                self.model, self.layer, inputs[:, first - start : end - start], self.caches[i]
            )
            if not self.recycled[i]:  # other hooks may have acted on these
                output = states[:, first - start : end - start]
            recycling = positions[end - 1]
            if recycling is not None:
                output = recycling.run_last(self.model, self.layer, output, end, self.caches[i])
                self.recycled[i] = True
            outputs.append(output)
            first = end
        return torch.cat(outputs, dim=1)

    def recycling(self, i: int, row: Rewound, position: int) -> Recycling | None:
        """How the block runs again for a row at a position."""
        read = position + 1
        if row.events:
            return self.told[i].get(position)
        if row.candidate is not None:
            row.at(read).candidate = row.candidate if read == row.length else None
            return self.action.recycling(row.row)
        if read <= row.first:  # tokens of prompts and prefixes do not trigger
            return None
        return self.action.recycling(row.at(read))
