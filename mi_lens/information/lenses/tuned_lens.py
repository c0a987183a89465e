"""The tuned lens: what each block's output says, after an affine map that was fitted to be read."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mi_lens.common.html import table
from mi_lens.common.records import DamagedError
from mi_lens.common.tensor_file import read_tensors, write_tensors
from mi_lens.interventions.vector import require_unused
from mi_lens.models.hook_names import last_block_output, match_hook_names
from mi_lens.models.model import Model
from mi_lens.problems.problem import Problem

TENSORS = ("weight", "bias")
ALL_BLOCKS = "blocks.*.hook_resid_post"


@dataclass(frozen=True, eq=False, repr=False)
class TunedLens:
    """One affine translator per hook name (Belrose et al., 2023, arXiv 2303.08112, section 3).

    A state h at a hook name l is read as the final norm and the unembedding read

        h + A_l h + b_l.

    A_l and b_l are those that make the distribution nearest to the model's final one
    (`train_lens`). With A_l = 0 and b_l = 0 this is the logit lens. At the last block's output
    there is nothing to translate: both lenses give the model's own distribution there.

    Attributes:
        hook_names: Where states are translated, in the order of the tensors.
        weight: A, one matrix per hook name, in float32 or wider, on the CPU.
        bias: b, one vector per hook name.
        final: The hook name of the last block's output.
        model: Fingerprint of the model.
        problems: The problems whose traces the lens was trained on: key (`Problem.key`) to id.
        settings: How it was trained; empty if it was not.
    """

    hook_names: tuple[str, ...]
    weight: Float[Tensor, "hook d d"]
    bias: Float[Tensor, "hook d"]
    final: str
    model: str
    problems: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        hooks = ", ".join(self.hook_names[:2]) + (", ..." if len(self.hook_names) > 2 else "")
        return (
            f"TunedLens({len(self.hook_names)} hook names ({hooks}), d={self.bias.shape[1]}, of "
            f"model {self.model}, trained on {len(self.problems):,} problems)"
        )

    def _repr_html_(self) -> str:
        about = {
            "hook names": ", ".join(self.hook_names),
            "coordinates": self.bias.shape[1],
            "model": self.model,
            "trained on": f"{len(self.problems):,} problems",
            **self.settings,
        }
        return table(about, caption="tuned lens")

    def translate(self, hook_name: str, states: Float[Tensor, "step d"]) -> Float[Tensor, "step d"]:
        """States at a hook name as the final norm is to read them: h + A h + b.

        Args:
            hook_name: Where the states were read.
            states: The states.

        Returns:
            The translated states in the lens's dtype, on the states' device; at the last block's
            output the states themselves.

        Raises:
            ValueError: If the lens has no translator at this hook name, or of another width.
        """
        if hook_name == self.final and hook_name not in self.hook_names:
            return states
        if hook_name not in self.hook_names:
            raise ValueError(
                f"the lens has no translator at {hook_name!r}; it has them at "
                f"{', '.join(self.hook_names)}"
            )
        if states.shape[-1] != self.bias.shape[1]:
            raise ValueError(
                f"states of width {states.shape[-1]} at {hook_name}; the lens translates width "
                f"{self.bias.shape[1]}"
            )
        place = self.hook_names.index(hook_name)
        weight, bias = (each[place].to(states.device) for each in (self.weight, self.bias))
        wide = states.to(weight.dtype)
        return wide + wide @ weight.T + bias

    def check_model(self, fingerprint: str) -> None:
        """Refuses a model other than the one that the lens was trained on.

        Raises:
            ValueError: If the fingerprint is another one.
        """
        if self.model != fingerprint:
            raise ValueError(
                f"a tuned lens of model {self.model} with model {fingerprint}, which is another "
                "checkpoint, or the same one in another dtype or by another backend; train a lens "
                "of this model"
            )

    def check_unused(self, problems: Iterable[Problem]) -> None:
        """Refuses problems that the lens was trained on; call it before reading their traces.

        Raises:
            ValueError: If the lens was trained on one of the problems.
        """
        require_unused(problems, self.problems, "train the lens", "read traces of others")

    def save(self, path: str | Path) -> None:
        """Writes the lens as one safetensors file, with all else as its metadata."""
        about = {each.name: getattr(self, each.name) for each in fields(self)}
        tensors = {name: about.pop(name) for name in TENSORS}
        write_tensors(path, tensors, {"kind": "tuned lens", **about})

    @classmethod
    def load(cls, path: str | Path) -> "TunedLens":
        """Reads back what `save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            DamagedError: If the file was altered, or holds no tuned lens.
        """
        tensors, about = read_tensors(path)
        if about.pop("kind", None) != "tuned lens":
            raise DamagedError(f"{path}: holds no tuned lens; expected what TunedLens.save writes")
        about["hook_names"] = tuple(about["hook_names"])
        return cls(**tensors, **about)


def lens_hook_names(model: Model, patterns: str | Sequence[str] | None = None) -> tuple[str, ...]:
    """Where a lens of a model translates states: the patterns' hook names without the last output.

    Args:
        model: The model.
        patterns: Hook names or patterns, as in `match_hook_names`. None takes every block's output.

    Raises:
        ValueError: If a pattern matches no hook, or nothing is left to translate.
    """
    final = last_block_output(model)
    names = match_hook_names(model, ALL_BLOCKS if patterns is None else patterns)
    translated = tuple(name for name in names if name != final)
    if not translated:
        raise ValueError(
            f"hook names {names}: at {final} the final norm and the unembedding read the states as "
            "they are; give at least one hook name before it"
        )
    return translated


def identity_lens(
    model: Model, fingerprint: str, patterns: str | Sequence[str] | None = None
) -> TunedLens:
    """A lens before its training: A = 0 and b = 0, which is the logit lens."""
    names = lens_hook_names(model, patterns)
    d = model.cfg.d_model
    dtype = torch.promote_types(model.cfg.dtype, torch.float32)
    return TunedLens(
        hook_names=names,
        weight=torch.zeros(len(names), d, d, dtype=dtype),
        bias=torch.zeros(len(names), d, dtype=dtype),
        final=last_block_output(model),
        model=fingerprint,
    )
