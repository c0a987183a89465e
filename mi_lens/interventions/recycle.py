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

from collections.abc import Set
from dataclasses import asdict, dataclass
from typing import Literal

from mi_lens.interventions.protocol import Action, Intervention, Recycling, Row, Trigger
from mi_lens.interventions.words import Worded
from mi_lens.models.hook_names import block_output, layer_of_output
from mi_lens.models.model import Model
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
        return _Recycle(self, layer, word_ids(model, self.words))

    def to_json(self):
        """See `Intervention.to_json`."""
        return asdict(self)


class _Recycle(Action):
    def __init__(self, settings: Recycle, layer: int, ids: Set[int]):
        self.recycled_layer, self.recycled_when = layer, settings.trigger
        self.order = Recycling(settings.passes, settings.kv == "keep")
        self.probability, self.ids = settings.probability, ids

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
