r"""Steering: a vector is added to states during generation (SEAL, arXiv 2504.07986).

SEAL adds alpha times S at the tokens that complete a blank line, inside the think block. Its layer
20 is the input of block 20, which is the output of block 19: "blocks.19.hook_resid_post".
"""

import warnings
from collections.abc import Sequence, Set
from dataclasses import dataclass, field, fields
from math import isfinite
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_lens.common.calls import without_defaults
from mi_lens.common.on_device import on_device
from mi_lens.common.provenance import content_hash
from mi_lens.interventions.protocol import Action, Intervention
from mi_lens.interventions.row import Row, positions, wanted_of
from mi_lens.interventions.vector import SteeringVector, is_among, load_vectors
from mi_lens.models.hook_names import head_of, resolve_hook_names
from mi_lens.models.model import Model
from mi_lens.problems.problem import Problem
from mi_lens.traces.think_block import require_lines
from mi_lens.traces.vocabulary import Words, as_words, word_ids

Variant = Literal["add", "project", "random"]
Unit = Literal["vector", "state"]
LATER = {"unit": "vector", "keep_norm": False}


@dataclass(frozen=True, eq=False)
class Steer(Intervention):
    r"""Adds `alpha` times a vector to the states at a hook name, at selected positions.

    Attributes:
        vector: A `SteeringVector`, the path of a file of them, or numbers of shape (d_model,).
        hook_name: Where the vector is added; None takes the hook name of the `SteeringVector`.
            "blocks.3.attn.hook_z[2]" steers the output of one head, before W_O.
        alpha: Factor of the vector; see `unit`.
        at: "boundary" steers at tokens that complete a blank line, such as "\n\n"; "all" at every
            token; words at these words, each with every surface form.
        inside_think: Whether to steer only while the think block is open. The tokenizer says which
            marks open and close it (`mi_lens.problems.think_kinds`).
        prompt: Whether to steer the prompt's positions too (even if `inside_think` is True).
        variant: "add" adds the vector; "project" subtracts alpha times the state's component along
            the vector; "random" adds a random direction of the same norm (a control).
        seed: Seeds the random direction.
        made_from: Keys (`Problem.key`) of the problems that the vector was computed from; a
            `SteeringVector` provides them.
        allow_overlap: Whether generation on those problems is allowed.
        of_model: Fingerprint of the model that the vector was computed from; a `SteeringVector`
            provides it. Steering another model gives a warning.
        unit: What alpha counts: "vector" adds alpha times the vector; "state" adds alpha times the
            norm of the state itself, in the vector's direction.
        keep_norm: Whether the changed state is scaled to the norm that it had (CREST).
    """

    vector: Any = field(repr=False)
    hook_name: str | None = None
    alpha: float = 1.0
    at: Literal["boundary", "all"] | Words = "boundary"
    inside_think: bool = True
    prompt: bool = False
    variant: Variant = "add"
    seed: int = 0
    made_from: Sequence[str] = field(default=(), repr=False)
    allow_overlap: bool = False
    of_model: str | None = field(default=None, repr=False)
    unit: Unit = "vector"
    keep_norm: bool = False

    def __post_init__(self):
        set_field = object.__setattr__.__get__(self)
        if isinstance(self.vector, str | Path):
            set_field("vector", _from_file(self.vector, self.hook_name))
        if isinstance(self.vector, SteeringVector):
            set_field("hook_name", self.hook_name or self.vector.hook_name)
            set_field("made_from", self.made_from or tuple(self.vector.problems))
            set_field("of_model", self.of_model or self.vector.model or None)
            set_field("vector", self.vector.vector)
        given = self.vector.detach().cpu() if isinstance(self.vector, Tensor) else self.vector
        vector = torch.as_tensor(given, dtype=torch.float64).clone()
        set_field("vector", vector)
        set_field("made_from", tuple(self.made_from))
        if not isinstance(self.at, str):
            set_field("at", as_words(self.at))
        elif self.at not in ("boundary", "all"):
            raise ValueError(f"at={self.at!r}: expected 'boundary', 'all' or a list of words")
        if vector.ndim != 1 or not len(vector):
            raise ValueError(f"vector has shape {list(vector.shape)}, expected [d_model]")
        if not vector.isfinite().all() or not vector.norm():
            raise ValueError("vector holds NaN or infinity, or is zero; expected a direction")
        if self.hook_name is None:
            raise ValueError("hook_name is None: only a SteeringVector provides its own")
        if not isfinite(self.alpha):
            raise ValueError(f"alpha={self.alpha}: expected a finite number")
        if self.variant not in get_args(Variant):
            raise ValueError(f"variant={self.variant!r}: expected one of {get_args(Variant)}")
        if self.unit not in get_args(Unit):
            raise ValueError(f"unit={self.unit!r}: expected one of {get_args(Unit)}")
        if not isinstance(self.keep_norm, bool):
            raise ValueError(f"keep_norm={self.keep_norm!r}: expected True or False")
        if self.variant == "project" and self.unit == "state":
            raise ValueError(
                "unit='state' with variant='project': alpha counts the state's own component "
                "there; leave unit out"
            )

    def __repr__(self) -> str:
        shown = {f.name: getattr(self, f.name) for f in fields(self) if f.repr}
        told = without_defaults(shown, LATER)
        return f"Steer({', '.join(f'{name}={value!r}' for name, value in told.items())})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Steer) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(content_hash(self.to_json()))

    def check(self, problem: Problem) -> None:
        """See `Intervention.check`."""
        if is_among(problem, self.made_from) and not self.allow_overlap:
            raise ValueError(
                f"problem {problem.id} is one of those that the steering vector was computed from; "
                "evaluate on others, or use Steer(..., allow_overlap=True)"
            )

    def check_model(self, fingerprint: str) -> None:
        """See `Intervention.check_model`."""
        if self.of_model not in (None, fingerprint):
            warnings.warn(
                f"a steering vector of model {self.of_model} steers model {fingerprint}, "
                "which is another checkpoint, or the same one in another dtype or by another "
                "backend",
                stacklevel=2,
            )

    def bind(self, model: Model) -> Action:
        """See `Intervention.bind`."""
        assert self.hook_name is not None
        hook_name, head = head_of(self.hook_name)
        resolve_hook_names(model, hook_name)
        if head is not None and head >= model.cfg.n_heads:
            raise ValueError(
                f"hook name {self.hook_name!r}: the model has {model.cfg.n_heads} heads, 0 to "
                f"{model.cfg.n_heads - 1}"
            )
        held, width = "the model's residual stream", model.cfg.d_model
        if head is not None:
            held, width = "a head of the model", model.cfg.d_head
        if len(self.vector) != width:
            raise ValueError(
                f"vector has {len(self.vector)} numbers and {held} {width}; expected as many"
            )
        if self.at == "boundary":
            require_lines(model.tokenizer)
        ids = None if isinstance(self.at, str) else word_ids(model, self.at)
        return _Steer(self, ids, model.cfg.dtype)

    def to_json(self):
        """See `Intervention.to_json`."""
        settings = {f.name: getattr(self, f.name) for f in fields(self)}
        return without_defaults(settings, LATER) | {
            "vector": self.vector.tolist(),
            "at": self.at if isinstance(self.at, str) else list(as_words(self.at)),
            "made_from": list(self.made_from),
        }


def _from_file(path: str | Path, hook_name: str | None) -> SteeringVector:
    vectors = load_vectors(path)
    if hook_name is None and len(vectors) == 1:
        return next(iter(vectors.values()))
    if hook_name not in vectors:
        raise ValueError(
            f"{path} has no vector for hook_name={hook_name!r}; it has {sorted(vectors)}"
        )
    return vectors[hook_name]


def random_like(vector: Float[Tensor, "d"], seed: int) -> Float[Tensor, "d"]:
    """A random direction with the norm of a vector."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(len(vector), dtype=torch.float64, generator=generator)
    return direction * (vector.double().norm() / direction.norm())


class _Steer(Action):
    by_position = True

    def __init__(self, settings: Steer, ids: Set[int] | None, dtype: torch.dtype):
        self.settings, self.ids = settings, ids
        hook_name, self.head = head_of(str(settings.hook_name))
        self.hook_names = (hook_name,)
        self.needs_tokens = settings.at != "all" or settings.inside_think
        vector = settings.vector
        if settings.variant == "random":
            vector = random_like(vector, settings.seed)
        self.unit = (vector / vector.norm()).to(dtype)
        self.shift = (settings.alpha * vector).to(dtype)
        self._on: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def wanted(self, row: Row, token: int, generated: int) -> bool:
        """Whether the position of a token is steered."""
        if self.ids is not None and token not in self.ids:
            return False
        if self.settings.at == "boundary" and not row.at_boundary(generated):
            return False
        if generated < 1:
            return self.settings.prompt
        return not self.settings.inside_think or row.thinking(generated)

    def will_edit(self, row: Row) -> bool:
        """See `Action.will_edit`."""
        return any(wanted_of(row, self.wanted))

    def edit(
        self, hook_name: str, states: Float[Tensor, "rows pos *d"], rows: Sequence[Row]
    ) -> Float[Tensor, "rows pos *d"]:
        """See `Action.edit`."""
        if self.head is None:
            return self._edit(states, hook_name, rows)
        changed = states.flatten(2).clone()  # Heads side by side, as some classes have them anyway.
        first = self.head * len(self.unit)
        here = slice(first, first + len(self.unit))
        changed[..., here] = self._edit(changed[..., here], str(self.settings.hook_name), rows)
        return changed.reshape(states.shape)

    def _edit(
        self, states: Float[Tensor, "rows pos *d"], name: str, rows: Sequence[Row]
    ) -> Float[Tensor, "rows pos *d"]:
        # It would be stretched over a state of width 1, or over heads.
        if states.ndim != 3 or states.shape[-1] != len(self.unit):
            held = " x ".join(map(str, states.shape[2:]))
            raise ValueError(
                f"hook name {name!r} holds {held} numbers per position, and the vector "
                f"{len(self.unit)}; steer at a residual state, such as a hook_resid_post, or at "
                "one head, such as 'blocks.3.attn.hook_z[2]'"
            )
        mask = positions(rows, states.shape[1], self.wanted)
        if not mask.any():
            return states
        for i in mask.any(1).nonzero()[:, 0].tolist():
            _note(rows[i], name, mask[i, -rows[i].reading :])
        steered = self._steered(states)
        if mask.all():
            return steered
        if states.shape[1] == 1:  # A step, whose like was seen before.
            here = on_device(tuple(mask[:, 0].tolist()), states.device, torch.bool)[:, None]
        else:
            here = mask.to(states.device)
        return torch.where(here[..., None], steered, states)

    def _steered(self, states: Float[Tensor, "rows pos d"]) -> Float[Tensor, "rows pos d"]:
        """The states as they are wherever the row is steered."""
        unit, shift = self._vectors(states.device)
        if self.settings.variant == "project":
            shift = -self.settings.alpha * (states @ unit)[..., None] * unit
        elif self.settings.unit == "state":
            shift = self.settings.alpha * _norms(states) * unit
        if not self.settings.keep_norm:
            return states + shift
        # Of a state that lies along the vector nothing may be left, and nothing has no norm.
        left = _norms(states + shift)
        scale = torch.where(left > 0, _norms(states) / left, 0.0)
        return (states + shift) * scale

    def _vectors(self, device: torch.device) -> tuple[Float[Tensor, "d"], Float[Tensor, "d"]]:
        """The unit vector and the shift on the states' device: layers may lie on several."""
        if device not in self._on:
            self._on[device] = self.unit.to(device), self.shift.to(device)
        return self._on[device]


def _norms(states: Float[Tensor, "rows pos d"]) -> Float[Tensor, "rows pos 1"]:
    """Lengths of states, summed in float32 at least and rounded to their dtype."""
    wide = torch.promote_types(states.dtype, torch.float32)
    return torch.linalg.vector_norm(states, dim=-1, keepdim=True, dtype=wide).to(states.dtype)


def _note(row: Row, hook_name: str, steered: Bool[Tensor, " pos"]) -> None:
    """Records where a row was steered, as a range of steps; neighbouring ranges become one.

    The state at a position is that of the step whose token it emits. Positions of the prompt before
    its last are steps below 0.
    """
    key, first = ("steer", hook_name), row.step + 1 - len(steered)
    for step in (first + steered.nonzero()[:, 0]).tolist():
        here = (e for e in reversed(row.events) if (e["what"], e.get("hook_name")) == key)
        latest = next(here, None)
        if latest is not None and latest["step"] <= step <= latest["last"] + 1:
            latest["last"] = max(step, latest["last"])  # A hook may fire again for a position.
        else:
            row.events.append({"step": step, "what": "steer", "hook_name": hook_name, "last": step})
