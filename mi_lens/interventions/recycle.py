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

Several consecutive blocks can run again as one, and each run can be damped: the new state is
h + damping (TF(h) - h), with TF all of these blocks (`mi_lens.interventions.again`). Training-free
looping of frozen models (arXiv 2602.14759, 2605.23872) does both. There the damped steps begin at
the input of the first block; here the first run is a whole one, and the further runs are damped.
"""

from collections.abc import Callable, Sequence, Set
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mi_lens.common.calls import without_defaults
from mi_lens.interventions.again import Recycling, Trigger
from mi_lens.interventions.plain_hooks import PlainPasses, by_rows
from mi_lens.interventions.protocol import Action, Intervention
from mi_lens.interventions.row import Rewound, Row
from mi_lens.interventions.words import Worded
from mi_lens.models.backends.lookup import backend_of
from mi_lens.models.hook_names import block_output, layer_of_output
from mi_lens.models.model import Model
from mi_lens.models.self_check import require_able
from mi_lens.traces.vocabulary import Words, word_ids


@dataclass(frozen=True)
class Recycle(Worded, Intervention):
    """Runs a layer again at words (RR, paper 1), or several consecutive layers as one.

    Attributes:
        layer: The hook name of the layer's output, such as "blocks.23.hook_resid_post"; a layer
            number is converted to it. A pair, such as (10, 14), is the first and the last of the
            layers that run again one after another.
        words: Words, each with every surface form that is a single token; or token ids.
        passes: Number of further runs of the block.
        trigger: "candidate" (the released code) or "consumed" (the text), as above. Tokens of
            prompts and prefixes do not trigger.
        kv: What later tokens attend to in these layers: "replace" means the keys and values of the
            last run (the released code), "keep" means those of the first run.
        probability: Chance of recycling at each trigger; the released code uses 0.5. It is drawn
            with the request's seed.
        damping: How far each further run moves the state, above 0, at most 1: the new state is
            h + damping (TF(h) - h). 1 replaces it by the output (paper 1). The keys and values of a
            run are those of the state that it reads, so a damping changes them from the second
            further run on.
    """

    layer: str | int | Sequence[str | int]
    words: Words
    passes: int = 1
    trigger: Trigger = "candidate"
    kv: Literal["replace", "keep"] = "replace"
    probability: float = 1.0
    damping: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "layer", _outputs(self.layer))
        if self.passes < 1:
            raise ValueError(f"passes={self.passes}: expected at least 1 further run of the block")
        if self.trigger not in ("candidate", "consumed"):
            raise ValueError(f"trigger={self.trigger!r}: expected 'candidate' or 'consumed'")
        if self.kv not in ("replace", "keep"):
            raise ValueError(f"kv={self.kv!r}: expected 'replace' or 'keep'")
        if not 0 < self.probability <= 1:
            raise ValueError(f"probability={self.probability}: expected above 0, at most 1")
        if not 0 < self.damping <= 1:
            raise ValueError(f"damping={self.damping}: expected above 0, at most 1")

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.to_json().items())
        return f"Recycle({settings})"

    @property
    def blocks(self) -> range:
        """The blocks that run again, in this order."""
        names = self.layer if isinstance(self.layer, tuple) else (self.layer,)
        first, *_, last = (layer_of_output(str(name)) for name in (names[0], *names))
        assert first is not None
        assert last is not None  # refused by _outputs
        return range(first, last + 1)

    def bind(self, model: Model) -> Action:
        """See `Intervention.bind`."""
        if self.blocks[-1] >= model.cfg.n_layers:
            raise ValueError(
                f"layer={self.layer!r}: the model has {model.cfg.n_layers} layers, blocks.0 to "
                f"blocks.{model.cfg.n_layers - 1}"
            )
        require_able(model, "recycle")
        return _Recycle(self, word_ids(model, self.words))

    def to_json(self):
        """See `Intervention.to_json`; without a damping of 1, which older files do not name."""
        return without_defaults(asdict(self), {"damping": 1})


def _outputs(layer: Any) -> Any:
    """A layer as the hook name of its output; a first and a last layer as two of these."""
    if isinstance(layer, list | tuple):
        names = tuple(map(_outputs, layer))
        found = (layer_of_output(name) for name in names if isinstance(name, str))
        numbers = [number for number in found if number is not None]
        if len(names) != 2 or numbers != sorted(numbers):
            raise ValueError(
                f"layer={layer!r}: expected one layer, or the first and the last of several, such "
                "as (10, 14)"
            )
        return names if names[0] != names[1] else names[0]
    name = block_output(layer) if isinstance(layer, int) else str(layer)
    if layer_of_output(name) is None or isinstance(layer, bool):
        raise ValueError(
            f"layer={name!r}: expected a layer number or the hook name of a block's output, such "
            f"as {block_output(12)!r}"
        )
    return name


class _Recycle(Action):
    def __init__(self, settings: Recycle, ids: Set[int]):
        blocks = settings.blocks
        self.recycled_layer, self.recycled_count = blocks[-1], len(blocks)
        self.recycled_when = settings.trigger
        self.order = Recycling(
            settings.passes, settings.kv == "keep", settings.damping, len(blocks)
        )
        self.probability, self.ids = settings.probability, ids

    def plain_hooks(
        self, model: Model, passes: PlainPasses, name: str
    ) -> list[tuple[str, Callable[..., Any]]]:
        """See `Action.plain_hooks`.

        The blocks run by themselves, behind a cache of their own. From a row's first recycled
        position on their output is that one: other hooks act on the first block's input, but not
        behind it.

        With "candidate", a hook cannot know what the logits will propose. It recycles what the
        events of a trace say, or one step: the last position of a `Row` whose candidate is set.
        """
        told = all(row.events or row.candidate is not None for row in passes.rows)
        if self.recycled_when == "candidate" and not told:
            raise ValueError(
                f"{name}: a hook cannot know the candidate, which comes after it; give a trace "
                "that was generated under it, a Row with its candidate, or use trigger='consumed'"
            )
        return PlainRecycling(self, model, passes).hooks()

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


class PlainRecycling:
    """Plain hooks that run blocks again: one keeps their input, one gives their output.

    Args:
        action: Says where its blocks run again.
        model: A HookedTransformer or TransformerBridge.
        passes: What is read.
    """

    def __init__(self, action: Action, model: Model, passes: PlainPasses):
        self.action, self.model, self.passes = action, model, passes
        self.backend, self.blocks = backend_of(model), action.recycled_blocks
        self.told = [action.recycled_again(row) for row in passes.rows]
        self.caches: list[Any] = []
        self.recycled: list[bool] = []
        self.inputs: Tensor | None = None

    def hooks(self) -> list[tuple[str, Callable[..., Any]]]:
        """The hooks, as (name, hook) pairs."""
        first, last = self.blocks[0], self.blocks[-1]
        return [(f"blocks.{first}.hook_resid_pre", self.keep), (block_output(last), self.act)]

    def keep(self, states: Float[Tensor, "batch pos d"], hook: Any) -> None:
        """Keeps the input of the first block."""
        self.inputs = states

    def act(self, states: Float[Tensor, "batch pos d"], hook: Any) -> Float[Tensor, "batch pos d"]:
        """Gives the output of the last block."""
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
        """A row's outputs of the blocks, which run from one recycled position to the next."""
        stop = start + states.shape[1]
        positions = {at: self.recycling(i, row, at) for at in range(start, stop)}
        ends = [at + 1 for at, recycling in positions.items() if recycling is not None]
        outputs, first = [], start
        for end in dict.fromkeys([*ends, stop]):
            output = self.backend.some_blocks(
                self.model, self.blocks, inputs[:, first - start : end - start], self.caches[i]
            )
            if not self.recycled[i]:  # other hooks may have acted on these
                output = states[:, first - start : end - start]
            recycling = positions[end - 1]
            if recycling is not None:
                output = recycling.run_last(
                    self.model, self.blocks[-1], output, end, self.caches[i]
                )
                self.recycled[i] = True
            outputs.append(output)
            first = end
        return torch.cat(outputs, dim=1)

    def recycling(self, i: int, row: Rewound, position: int) -> Recycling | None:
        """How the blocks run again for a row at a position."""
        read = position + 1
        if row.events:
            return self.told[i].get(position)
        if row.candidate is not None:
            row.at(read).candidate = row.candidate if read == row.length else None
            return self.action.recycling(row.row)
        if read <= row.first:  # tokens of prompts and prefixes do not trigger
            return None
        return self.action.recycling(row.at(read))
