"""Four further readings: right against wrong traces, gains of thoughts, attention, directions.

    python -m experiments.further_readings

Writes a figure a reading, with its numbers as JSON, and prints what they say.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

import mi_lens
from mi_lens.attention_to import attention_to_words
from mi_lens.contrast import contrast_words
from mi_lens.gains import ThoughtGains, gains_by_class, thought_gains
from mi_lens.grading import is_correct
from mi_lens.plots import save_figure
from mi_lens.reading import reading_vectors
from mi_lens.reading_plots import (
    attention_figure,
    gains_figure,
    reading_figure,
    rollouts_figure,
    words_figure,
)
from mi_lens.rollouts import Rollouts, critical_gain, mean_gain, roll_out
from mi_lens.runs import versions
from mi_lens.statistics import Estimate
from mi_lens.thoughts import THOUGHT_CLASSES


@dataclass(frozen=True)
class Config:
    """What to run.

    Attributes:
        model: A checkpoint.
        problems: "pocket", or a JSON-lines file.
        limit: Problems.
        samples: Traces of each, at temperature 1.
        rolled_out: Wrong traces to roll out, one a problem.
        steps: Steps of each: so many of highest entropy, and as many others.
        continuations: Of each kind at each step.
        reflection: Words that open a reflection or a transition.
        opening: Words that open other thoughts: the control of place.
        asking: How the answer is asked for, as the model itself ends.
        max_new_tokens: Budget of a trace.
        batch_size: Rows decoded together.
        seed: Of problems and draws.
        out: Folder of the figures.
    """

    model: str = "pocket-reasoner"
    problems: str = "pocket"
    limit: int = 80
    samples: int = 8
    rolled_out: int = 30
    steps: int = 4
    continuations: int = 8
    reflection: tuple[str, ...] = ("Wait", "Hmm", "Hold", "Actually", "Alternatively")
    opening: tuple[str, ...] = ("So", "Therefore", "Hence", "Then", "Now", "Next", "After", "From")
    asking: str = ".\n</think>\n\nThe result is \\boxed{"
    max_new_tokens: int = 512
    batch_size: int = 128
    seed: int = 0
    out: Path = Path("figures")


def main(config: Config) -> None:
    """Samples traces and reads them in four ways."""
    model = mi_lens.load(config.model)
    problems = mi_lens.load_problems(config.problems, limit=config.limit, seed=config.seed)
    sampled = mi_lens.Condition((), mi_lens.Sampling(1.0))
    requests = [
        mi_lens.Request(problem, sampled, seed=seed, max_new_tokens=config.max_new_tokens)
        for problem in problems
        for seed in range(config.samples)
    ]
    traces = mi_lens.generate(model, requests, batch_size=config.batch_size)
    first = traces[:: config.samples]
    about = {
        **{k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items()},
        "fingerprint": mi_lens.model_fingerprint(model),
        "versions": versions(),
        "accuracy": float(np.mean([_right(trace) for trace in traces])),
    }
    print(f"{len(traces)} traces, accuracy {about['accuracy']:.3f}")
    words(model, traces, about, config)
    rollouts(model, traces, about, config)
    gains(model, first, about, config)
    attention(model, first, about, config)
    directions(model, first, about, config)


def words(model, traces: Sequence[mi_lens.Trace], about: dict[str, Any], config: Config) -> None:
    """Word rates in right against wrong traces of a problem."""
    found = contrast_words(model.tokenizer, traces, seed=config.seed)
    save_figure(words_figure(found), config.out / "critical_words", about | asdict(found))
    print(
        f"\nwords: {found.right} right and {found.wrong} wrong traces of {found.problems} problems"
    )
    for row in found.rows[:10]:
        print(
            f"  {row.word:<16}right {100 * row.right:.2f}, wrong {100 * row.wrong:.2f} per 100 "
            f"tokens, difference {_said(row.difference, 100)}, p {row.p_adjusted:.4f}"
        )


def rollouts(model, traces: Sequence[mi_lens.Trace], about: dict[str, Any], config: Config) -> None:
    """Continuations of wrong traces with and without a token."""
    wrong = {}
    for trace in traces:
        if not _right(trace) and trace.problem is not None:
            wrong.setdefault(trace.problem.id, trace)
    chosen = list(wrong.values())[: config.rolled_out]
    uncertain, others = zip(*(_steps(model, trace, config) for trace in chosen), strict=True)
    settings = {
        "samples": config.continuations, "max_new_tokens": config.max_new_tokens,
        "seed": 1000, "batch_size": config.batch_size, "progress": True,
    }  # fmt: skip
    at_uncertain = roll_out(model, chosen, uncertain, **settings)
    at_others = roll_out(model, chosen, others, **settings)
    groups = {"uncertain steps": at_uncertain, "other steps": at_others}
    openers = {word.casefold() for word in config.reflection}
    groups |= {
        "digits": [one for one in at_uncertain if one.text.strip().isdigit()],
        "reflection words": [o for o in at_uncertain if o.text.strip().casefold() in openers],
    }
    groups["rest"] = [
        o for o in at_uncertain if o not in groups["digits"] + groups["reflection words"]
    ]
    groups = {name: some for name, some in groups.items() if some}
    numbers = {
        name: {"steps": len(some), "mean": asdict(mean_gain(some)),
               "critical": asdict(critical_gain(some))}
        for name, some in groups.items()
    }  # fmt: skip
    rolled = [asdict(one) for one in at_uncertain + at_others]
    save_figure(
        rollouts_figure(groups),
        config.out / "critical_tokens",
        about | {"groups": numbers, "rollouts": rolled},
    )
    print(f"\nrollouts: success gained by forbidding, {len(chosen)} wrong traces")
    for name, some in groups.items():
        print(
            f"  {name:<18}{len(some):>4} steps, mean {_said(mean_gain(some), 100)} points, most "
            f"critical {_said(critical_gain(some), 100)}; with the token {_success(some):.1f}"
        )
    for one in sorted(at_uncertain, key=lambda one: -one.gain)[:8]:
        kept, forbidden = np.mean(one.kept), np.mean(one.forbidden)
        print(
            f"    {one.text!r} at {one.step} (p {one.probability:.2f}): {kept:.2f} -> "
            f"{forbidden:.2f}"
        )


def _success(some: Sequence[Rollouts]) -> float:
    return 100 * float(np.mean([np.mean(one.kept) for one in some]))


def _steps(model, trace: mi_lens.Trace, config: Config) -> tuple[list[int], list[int]]:
    """The steps of highest entropy, the end left out, and as many others."""
    last = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    (states,) = mi_lens.capture(model, [trace], [last])
    entropy = mi_lens.next_token_uncertainty(model, trace, states[last])["entropy"][:-1]
    order = np.argsort(-entropy, kind="stable")
    rng = np.random.default_rng(config.seed)
    others = rng.choice(order[config.steps :], config.steps, replace=False)
    return sorted(order[: config.steps].tolist()), sorted(others.tolist())


def gains(model, traces: Sequence[mi_lens.Trace], about: dict[str, Any], config: Config) -> None:
    """Bits of the gold answer that each thought adds."""
    right = {trace.id for trace in traces if _right(trace)}
    found = thought_gains(model, traces, asking=config.asking, progress=True)
    groups: dict[str, list[ThoughtGains]] = {
        "right traces": [one for one in found if one.trace in right],
        "wrong traces": [one for one in found if one.trace not in right],
    }
    numbers = {
        name: {"classes": {c: asdict(g) for c, g in gains_by_class(some).items()},
               "traces": [{"trace": one.trace, "cuts": one.cuts, "bits": one.bits,
                           "classes": [t.thought_class for t in one.thoughts]} for one in some]}
        for name, some in groups.items()
    }  # fmt: skip
    save_figure(gains_figure(groups), config.out / "thought_gains", about | {"groups": numbers})
    print("\ngains of thoughts")
    for name, some in groups.items():
        bits = np.array([[one.bits[i] for i in (0, 1, -1)] for one in some])
        print(
            f"  {name} ({len(some)}): bits of the answer at the prompt {bits[:, 0].mean():.1f}, "
            f"before the first thought {bits[:, 1].mean():.1f}, at the end {bits[:, 2].mean():.2g} "
            f"(median {np.median(bits[:, 2]):.2g})"
        )
        for thought_class in THOUGHT_CLASSES:
            of_class = gains_by_class(some)[thought_class]
            print(
                f"    {thought_class:<12}{of_class.thoughts:>4} thoughts: bits "
                f"{_said(of_class.bits)}, probability {_said(of_class.probability)}, losing "
                f"{_said(of_class.loss)}"
            )


def attention(
    model, traces: Sequence[mi_lens.Trace], about: dict[str, Any], config: Config
) -> None:
    """Attention paid to reflection words."""
    groups = {
        "reflection / equally frequent": attention_to_words(
            model, traces, config.reflection, seed=config.seed, batch_size=32
        ),
        "opening / equally frequent": attention_to_words(
            model, traces, config.opening, seed=config.seed, batch_size=32
        ),
        "reflection / opening": attention_to_words(
            model, traces, config.reflection, controls=config.opening, reach=100,
            seed=config.seed, batch_size=32,
        ),
    }  # fmt: skip
    numbers = {
        name: {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in asdict(found).items()}
        for name, found in groups.items()
    }
    save_figure(attention_figure(groups), config.out / "attention_to", about | {"groups": numbers})
    print("\nattention to words over attention to controls")
    for name, found in groups.items():
        above = int(((found.p_adjusted <= 0.05) & (found.ratio > 1)).sum())
        below = int(((found.p_adjusted <= 0.05) & (found.ratio < 1)).sum())
        layers = ", ".join(_said(layer) for layer in found.by_layer)
        print(
            f"  {name}: overall {_said(found.overall)}; by layer {layers}; heads significantly "
            f"above {above}, below {below} of {found.ratio.size}; {found.matches} occurrences, "
            f"{found.left_out} left out"
        )


def directions(
    model, traces: Sequence[mi_lens.Trace], about: dict[str, Any], config: Config
) -> None:
    """Reading vectors beside SEAL's, with a probe for what any direction could reach."""
    hooks = ["blocks.0.hook_resid_pre"]
    hooks += [f"blocks.{layer}.hook_resid_post" for layer in range(model.cfg.n_layers)]
    found = reading_vectors(model, traces, hooks, seed=config.seed, batch_size=32)
    probe = mi_lens.separability(model, traces, hooks, seed=config.seed, batch_size=32)
    numbers = {
        name: {k: getattr(one, k) for k in ("explained", "cosine", "pairs")}
        | {"auc": {k: asdict(v) for k, v in one.auc.items()},
           "gain": {k: asdict(v) for k, v in one.gain.items()},
           "probe": asdict(probe[name])}
        for name, one in found.items()
    }  # fmt: skip
    save_figure(reading_figure(found), config.out / "reading_vectors", about | {"hooks": numbers})
    print("\ndirections: held-out AUC, cosine with the difference of means")
    for name, one in found.items():
        print(f"  {name} (probe {probe[name].auc:.3f})")
        for kind, auc in one.auc.items():
            more = (
                f"; cosine {one.cosine[kind] or 0:.3f}, AUC gained {_said(one.gain[kind])}, "
                f"explained {one.explained[kind]:.2f}"
                if kind in one.cosine
                else ""
            )
            print(f"    {kind:<22}{auc.auc:.3f} ({auc.low:.3f} to {auc.high:.3f}){more}")


def _right(trace: mi_lens.Trace) -> bool:
    assert trace.problem is not None
    return is_correct(trace.text, trace.problem.answer)


def _said(one: Estimate, factor: float = 1.0) -> str:
    if one.mean is None or one.low is None or one.high is None:
        return "undefined" if one.mean is None else f"{factor * one.mean:+.3g}"
    return f"{factor * one.mean:+.3g} ({factor * one.low:+.3g} to {factor * one.high:+.3g})"


if __name__ == "__main__":
    main(tyro.cli(Config))
