"""The settings of mi-lens train-lens."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from mi_lens.common.checked_types import require_at_least
from mi_lens.information.lenses.settings import LensTraining
from mi_lens.problems.think_kinds import AUTO, require_think_kind


@dataclass(frozen=True, kw_only=True)
class TrainLensConfig(LensTraining):
    """Train a tuned lens on traces, and compare it with the logit lens on problems held out.

    Attributes:
        traces: A folder that generate, analyze, evaluate or import (with --tokenizer) wrote, or a
            file of traces.
        out: Folder to write to: a new or empty one, or one that the same command began.
        model: The model whose states are read, named as in `mi-lens generate`.
        hook_names: Where to translate states; None takes every block's output but the last one's.
        held_out: Share of the problems that are not trained on.
        batch_size: Number of traces read together; does not change results.
        backend: HookedTransformer or TransformerBridge; auto takes the first that has the model.
        dtype: float32, bfloat16, float16 or float64; None as in `mi-lens generate`.
        device: cpu or cuda; None takes cuda if there is one.
        think: How the model marks its thinking; as in `mi-lens generate`.
    """

    traces: Annotated[Path, tyro.conf.Positional]
    out: Path
    model: str = "pocket-reasoner"
    hook_names: tuple[str, ...] | None = None
    held_out: float = 0.2
    batch_size: int = 8
    backend: Literal["auto", "hooked", "bridge"] = "auto"
    dtype: str | None = None
    device: str | None = None
    think: str = AUTO

    def __post_init__(self):
        super().__post_init__()
        require_at_least(self, batch_size=1)
        require_think_kind(self.think)
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out={self.held_out}: expected a share between 0 and 1")

    def training(self) -> LensTraining:
        """What decides the training."""
        return LensTraining(
            updates=self.updates,
            learning_rate=self.learning_rate,
            traces_per_update=self.traces_per_update,
            steps_per_update=self.steps_per_update,
            seed=self.seed,
        )

    def load_model(self) -> Any:
        """Loads the model, as `mi_lens.load` does."""
        from mi_lens.models.loading import load

        return load(
            self.model,
            backend=self.backend,
            dtype=self.dtype,
            device=self.device,
            think=self.think,
        )
