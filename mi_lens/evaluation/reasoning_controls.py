"""The methods that the field compares, and their controls, as conditions made for one model.

    made = Controls().make(model, traces)
    evaluation = evaluate(model, problems, made.conditions)

Everything that a method needs (vectors, thinking words, the entropy of a gate, the mean length of
thinking) comes from the model's own traces of problems that are not evaluated. Settings are those
that each paper gives for its own models; none of them is tuned here. A method that cannot be made,
for lack of reflections say, is left out with the reason.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mi_lens.common.checked_types import require_at_least, require_types
from mi_lens.evaluation.boundary_stability import boundary_stability
from mi_lens.evaluation.condition_sets import Made
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.controls import matched_controls
from mi_lens.interventions.early_exit import EarlyExit
from mi_lens.interventions.extend import Continue
from mi_lens.interventions.gate import Gate
from mi_lens.interventions.protocol import Intervention
from mi_lens.interventions.recycle import Recycle
from mi_lens.interventions.row import Rewound
from mi_lens.interventions.schedule import Schedule
from mi_lens.interventions.steer import Steer
from mi_lens.interventions.suppress import LogitPenalty, Suppress
from mi_lens.interventions.vector import SteeringVector
from mi_lens.models.model import Model
from mi_lens.states.entropy_quantile import entropy_quantile
from mi_lens.steering.content import without_content
from mi_lens.steering.seal import extract_steering_vectors
from mi_lens.steering.separability import separability
from mi_lens.traces.matched_words import count_words
from mi_lens.traces.thoughts import split_thoughts
from mi_lens.traces.trace import Trace
from mi_lens.traces.vocabulary import SCALING_WORDS, word_of

STEERED = 20 / 28  # SEAL steers the input of block 20 of 28.
RECYCLED = 23 / 32  # Paper 1 recycles block 23 of 32.
REFLCTRL = (6 / 28, 22 / 28)  # The layers in which ReflCtrl acts, of R1-Distill-Qwen-1.5B.
CREST = 0.38  # The share of heads that CREST takes.
DAMPING = 0.5
ALPHA = 1.4  # AlphaOne's alpha.
REWRITTEN = 541  # Boundaries that the stability filter's paper writes on from.
UNSURE = 0.8  # The gate opens at the fifth of the steps whose entropy is highest.


@dataclass(frozen=True)
class Controls:
    """The set "@controls".

    Attributes:
        problems: Source of the problems whose traces vectors, words and numbers come from; None
            means the train split of the problems that are evaluated.
        limit: Number of these problems.
        draws: Number of random directions, and of sets of matched words.
        seed: Seed of these draws and of the rewritten thoughts.
    """

    problems: str | None = None
    limit: int = 200
    draws: int = 3
    seed: int = 0

    def __post_init__(self):
        require_types(self)
        require_at_least(self, limit=2, draws=1, seed=0)

    def make(self, model: Model, traces: Sequence[Trace]) -> Made:
        """See `ConditionSet.make`; the first condition is the baseline."""
        source = _Source(model, traces, self)
        conditions, left_out = [Condition()], {}
        for name, method in METHODS.items():
            try:
                conditions += [
                    Condition(tuple(interventions), name=f"{name} {i}" if i else name)
                    for i, interventions in enumerate(method(source), start=name in DRAWN)
                ]
            except ValueError as error:
                left_out[name] = str(error)
        return Made(tuple(conditions), left_out)


@dataclass(frozen=True)
class _Source:
    """What the methods take their settings from.

    Attributes:
        model: The model.
        traces: Its traces.
        settings: Numbers of draws, and the seed.
    """

    model: Model
    traces: Sequence[Trace]
    settings: Controls

    @cached_property
    def words(self) -> tuple[str, ...]:
        """Paper 1's words for test-time scaling, as far as the traces write them."""
        written = count_words(self.model.tokenizer, self.traces)
        words = tuple(word for word in SCALING_WORDS if written[word_of(word)])
        if not words:
            raise ValueError(f"{len(self.traces)} traces write none of {', '.join(SCALING_WORDS)}")
        return words

    @cached_property
    def layer(self) -> int:
        """The block that is recycled."""
        return min(round(RECYCLED * self.model.cfg.n_layers), self.model.cfg.n_layers - 1)

    @cached_property
    def hook_name(self) -> str:
        """Where vectors are added."""
        return f"blocks.{max(1, round(STEERED * self.model.cfg.n_layers))}.hook_resid_pre"

    @cached_property
    def vector(self) -> SteeringVector:
        """SEAL's vector."""
        return extract_steering_vectors(self.model, self.traces, [self.hook_name])[self.hook_name]

    @cached_property
    def stable_vector(self) -> SteeringVector:
        """SEAL's vector from stable boundaries, without its content (arXiv 2604.02113).

        It is made from the first traces that have `REWRITTEN` boundaries: these are costly.
        """
        thoughts = [len(split_thoughts(self.model.tokenizer, trace)) for trace in self.traces]
        traces = self.traces[: 1 + int(np.searchsorted(np.cumsum(thoughts), REWRITTEN))]
        stability = boundary_stability(self.model, traces, seed=self.settings.seed)
        vectors = extract_steering_vectors(
            self.model, traces, [self.hook_name], only=stability.is_stable
        )
        problems = [trace.require_problem("to read its question") for trace in traces]
        return without_content(self.model, vectors, problems)[self.hook_name].vector

    @cached_property
    def entropy(self) -> float:
        """The next-token entropy, in bits, that a share `UNSURE` of all steps lies below."""
        return entropy_quantile(self.model, self.traces, UNSURE)

    @cached_property
    def thinking(self) -> int:
        """The mean number of tokens in the think block."""
        rows = [Rewound.of(self.model.tokenizer, trace).row for trace in self.traces]
        lengths = [sum(map(row.thinking, range(row.step))) for row in rows]
        return max(1, round(float(np.mean(lengths))))


Method = Callable[[_Source], Iterable[Sequence[Intervention]]]  # One element per condition.


def _matched(source: _Source) -> Iterator[list[Intervention]]:
    controls = matched_controls(
        source.model.tokenizer,
        source.traces,
        source.words,
        draws=source.settings.draws,
        seed=source.settings.seed,
    )
    return ([Suppress(control.words)] for control in controls)


def _random(source: _Source) -> Iterator[list[Intervention]]:
    first = source.settings.seed
    return (
        [Steer(source.vector, variant="random", seed=seed)]
        for seed in range(first, first + source.settings.draws)
    )


def _reflctrl(source: _Source) -> list[list[Intervention]]:
    """Away from reflection, at the outputs of attention and MLP of the middle layers."""
    first, last = (round(depth * source.model.cfg.n_layers) for depth in REFLCTRL)
    places = [
        f"blocks.{layer}.{part}"
        for layer in range(first, min(last + 1, source.model.cfg.n_layers))
        for part in ("hook_attn_out", "hook_mlp_out")
    ]
    vectors = extract_steering_vectors(source.model, source.traces, places, recipe="R-ET")
    return [[Steer(vector, alpha=-0.48) for vector in vectors.values()]]


def _crest(source: _Source) -> list[list[Intervention]]:
    """The component along the vectors of the heads that tell thoughts apart best is reduced."""
    heads = ["blocks.*.attn.hook_z"]
    found = separability(source.model, source.traces, heads, seed=source.settings.seed)
    chosen = sorted(found, key=lambda head: -found[head].auc)[: round(CREST * len(found))]
    vectors = extract_steering_vectors(source.model, source.traces, heads)
    return [[Steer(vectors[h], alpha=4.0, variant="project", keep_norm=True) for h in chosen]]


# Name to what makes the interventions of each of its conditions.
METHODS: dict[str, Method] = {
    "SEAL": lambda s: [[Steer(s.vector)]],
    "SEAL, stable": lambda s: [[Steer(s.stable_vector)]],
    "ReflCtrl": _reflctrl,
    "CREST": _crest,
    "random direction": _random,
    "logit penalty": lambda _: [[LogitPenalty(("wait", "alternatively"), containing=True)]],
    "NoWait": lambda _: [[Suppress("@nowait", containing=True)]],
    "suppressed": lambda s: [[Suppress(s.words)]],
    "matched words": _matched,
    "RR, text": lambda s: [[Recycle(s.layer, s.words, trigger="consumed")]],
    "RR, code": lambda s: [[Recycle(s.layer, s.words, probability=0.5)]],
    "RR, damped": lambda s: [[Recycle(s.layer, s.words, damping=DAMPING)]],
    "RR, gated": lambda s: [[Gate(Recycle(s.layer, s.words), entropy=s.entropy)]],
    "TTTS": lambda s: [[Continue(s.words)]],
    "budget forcing": lambda _: [[Continue(("Wait",), times=2)]],
    "DEER": lambda _: [[EarlyExit()]],
    "AlphaOne": lambda s: [[Schedule(max(1, round(ALPHA * s.thinking)))]],
}
DRAWN = ("random direction", "matched words")  # Several draws each, which have numbers.
