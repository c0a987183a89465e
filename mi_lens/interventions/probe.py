"""A linear probe of states: its numbers, what it was trained on, and its file."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mi_lens.common.checked_types import require_types
from mi_lens.common.float64 import in_float64
from mi_lens.common.html import table, with_interval
from mi_lens.common.on_device import on_device
from mi_lens.common.provenance import content_hash
from mi_lens.common.tensor_file import read_tensors, write_tensors
from mi_lens.interventions.vector import is_among
from mi_lens.models.hook_names import resolve_hook_names
from mi_lens.models.model import Model
from mi_lens.problems.problem import Problem

WEIGHTS = "weights"  # The name of the tensor in a file.


@dataclass(frozen=True)
class StateProbe:
    """A logistic regression on states: the probability of what it was trained to tell.

        probability = 1 / (1 + exp(-(weights . h + bias)))

    `mi_lens.train_gate_probe` and `mi_lens.train_correctness_probe` train them.

    Attributes:
        hook_name: Where the states are.
        weights: One for each coordinate of a state.
        bias: What is added.
        model: Fingerprint of the model whose states it was trained on.
        target: What the probability is of, such as "peak by IQR(tau=1.5)" or "right trace".
        auc: Cross-validated area under the ROC curve, with problems held out; .5 is chance.
        auc_low: Lower end of its 95 % interval over held-out problems.
        auc_high: Upper end of the interval.
        positives: Number of states of the target.
        others: Number of states that are not.
        quantiles: Of the probability of held-out states, from 0 to 1 in equal parts.
        problems: The problems whose traces were used: key (`Problem.key`) to id.
    """

    hook_name: str
    weights: Sequence[float]
    bias: float
    model: str
    target: str
    auc: float
    auc_low: float
    auc_high: float
    positives: int
    others: int
    quantiles: Sequence[float]
    problems: Mapping[str, str]

    def __post_init__(self):
        set_field = object.__setattr__.__get__(self)
        set_field("weights", tuple(map(float, self.weights)))
        set_field("quantiles", tuple(map(float, self.quantiles)))
        set_field("problems", dict(self.problems))
        require_types(self)
        if not self.weights or not all(map(isfinite, (*self.weights, self.bias))):
            raise ValueError("a probe needs weights, all of them and the bias finite")

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return (
            f"StateProbe({self.hook_name}, {self.target}: AUC {self.auc:.3f} "
            f"[{self.auc_low:.3f}, {self.auc_high:.3f}], {self.positives:,} of "
            f"{self.positives + self.others:,} states, {len(self.problems):,} problems, {self.key})"
        )

    def _repr_html_(self) -> str:
        about = {
            "hook name": self.hook_name,
            "tells": self.target,
            "AUC on held-out problems (95 % interval)": with_interval(
                self.auc, self.auc_low, self.auc_high
            ),
            "states": f"{self.positives:,} of the target, {self.others:,} others",
            "made from": f"{len(self.problems):,} problems, model {self.model}",
        }
        return table(about, caption="probe of states")

    @property
    def key(self) -> str:
        """The name of its numbers: a hash of the hook name, the weights and the bias."""
        return content_hash([self.hook_name, self.weights, self.bias])

    def quantile(self, share: float) -> float:
        """The probability that a share of held-out states lie below, such as .9.

        Raises:
            ValueError: If the share is not between 0 and 1.
        """
        if not 0 <= share <= 1:
            raise ValueError(f"share={share}: expected from 0 to 1, such as 0.9")
        parts = np.linspace(0, 1, len(self.quantiles))
        return float(np.interp(share, parts, self.quantiles))

    def probabilities(self, states: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows"]:
        """Of each state, in float64; it does not depend on the other states.

        Raises:
            ValueError: If the states have another width.
        """
        if states.shape[-1] != len(self.weights):
            raise ValueError(
                f"hook name {self.hook_name!r} holds states of {states.shape[-1]} numbers, and the "
                f"probe has {len(self.weights)} weights; expected as many"
            )
        exact = in_float64(states)
        weights = on_device(tuple(self.weights), exact.device, exact.dtype)
        return torch.sigmoid((exact * weights).sum(-1) + self.bias)

    def check(self, problem: Problem, allow_overlap: bool, user: str) -> None:
        """Refuses a problem that the probe was trained on, unless that is allowed.

        Args:
            problem: The problem.
            allow_overlap: Whether it is allowed.
            user: The name of the intervention that uses the probe.

        Raises:
            ValueError: If it is not allowed, and the problem is one of them.
        """
        if is_among(problem, self.problems) and not allow_overlap:
            raise ValueError(
                f"problem {problem.id} is one of those that the probe of {user} was trained on; "
                f"evaluate on others, or use {user}(..., allow_overlap=True)"
            )

    def check_model(self, fingerprint: str) -> None:
        """Warns if the probe was trained on another model than that of the fingerprint."""
        if self.model not in ("", fingerprint):
            warnings.warn(
                f"a probe of model {self.model} reads model {fingerprint}, which is another "
                "checkpoint, or the same one in another dtype or by another backend",
                stacklevel=2,
            )

    def require_fit(self, model: Model) -> None:
        """Raises a ValueError if the model has no such hook name, or its states another width."""
        resolve_hook_names(model, self.hook_name)
        if len(self.weights) != model.cfg.d_model:
            raise ValueError(
                f"the probe has {len(self.weights)} weights and the model's residual stream "
                f"{model.cfg.d_model} numbers; expected as many"
            )

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON, which `StateProbe(**...)` reads."""
        return asdict(self) | {"weights": list(self.weights), "quantiles": list(self.quantiles)}

    def save(self, path: str | Path) -> None:
        """Writes it to a safetensors file, with what it was made from as metadata."""
        about = self.to_json()
        write_tensors(
            path, {WEIGHTS: torch.tensor(about.pop("weights"), dtype=torch.float64)}, about
        )

    @classmethod
    def load(cls, path: str | Path) -> "StateProbe":
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is damaged, or holds something else.
        """
        tensors, about = read_tensors(path)
        expected = {each.name for each in fields(cls)}
        if {WEIGHTS, *about} != expected or set(tensors) != {WEIGHTS}:
            raise ValueError(
                f"{path}: not the file of a probe; expected what StateProbe.save wrote"
            )
        return cls(weights=tensors[WEIGHTS].tolist(), **about)

    @classmethod
    def of(cls, given: Any) -> "StateProbe":
        """A probe, as itself, as the path of its file, or as its JSON.

        Raises:
            ValueError: If it is something else, or for the reasons of `load`.
        """
        if isinstance(given, str | Path):
            return cls.load(given)
        if isinstance(given, Mapping):
            return cls(**given)
        if not isinstance(given, cls):
            raise ValueError(f"probe={given!r}: expected a StateProbe, or the path of its file")
        return given
