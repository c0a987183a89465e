"""What every intervention does to accuracy and length, all conditions of all rows in one batch.

    python -m experiments.interventions

Writes figures/interventions (a dot plot, its numbers as JSON) and prints the table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.figure import Figure

import mi_lens
from mi_lens.grading import is_correct
from mi_lens.interventions.controls import Matching
from mi_lens.plots import BLUE, GREY, ORANGE, PAGE, save_figure, style
from mi_lens.runs import versions
from mi_lens.statistics import estimate_mean


@dataclass(frozen=True)
class Config:
    """What to run.

    Attributes:
        model: A checkpoint.
        problems: "pocket", or a JSON-lines file.
        limit: Problems that conditions are tried on.
        vector_limit: Pocket problems of the training split that the steering vectors come from.
        reflection: Words to suppress, to penalise, to recycle at.
        draws: Sets of control words of each kind.
        alphas: Strengths of steering.
        passes: Further passes of recycling.
        max_new_tokens: Budget of a trace.
        batch_size: Rows decoded together.
        seed: Of problems and draws.
        out: Folder of the figure.
    """

    model: str = "pocket-reasoner"
    problems: str = "pocket"
    limit: int = 200
    vector_limit: int = 300
    reflection: tuple[str, ...] = ("Wait", "Hmm", "Hold", "Actually")
    draws: int = 5
    alphas: tuple[float, ...] = (0.5, 1.0)
    passes: tuple[int, ...] = (1, 2)
    max_new_tokens: int = 512
    batch_size: int = 128
    seed: int = 0
    out: Path = Path("figures")


def main(config: Config) -> None:
    """Runs every condition on every problem, draws the figure and prints the table."""
    model = mi_lens.load(config.model)
    problems = mi_lens.load_problems(config.problems, limit=config.limit, seed=config.seed)
    baseline = _generate(model, problems, [mi_lens.Condition()], config)["baseline"]
    conditions = [
        *suppression(model, baseline, config), *recycling(model, config),
        *steering(model, config), *scaling(config),
    ]  # fmt: skip
    traces = {"baseline": baseline, **_generate(model, problems, conditions, config)}
    rows = [row(name, made, baseline) for name, made in traces.items()]
    numbers = {
        **{k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items()},
        "fingerprint": mi_lens.model_fingerprint(model),
        "versions": versions(),
        "conditions": {c.name: mi_lens.Plan(model).describe(c) for c in conditions},
        "rows": rows,
    }
    save_figure(draw(rows), config.out / "interventions", numbers)
    print(table(rows))


def suppression(model, baseline: Sequence[mi_lens.Trace], config: Config):
    """Suppression and penalty, with every control."""
    words = config.reflection
    yield mi_lens.Condition((mi_lens.Suppress(words),), name="suppress reflection")
    yield mi_lens.Condition((mi_lens.Suppress(["Alternatively"]),), name="suppress Alternatively")
    yield mi_lens.Condition(
        (mi_lens.LogitPenalty([*words, "Alternatively"], -3.0, containing=True),), name="penalty -3"
    )
    last = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    entropy = [
        mi_lens.next_token_uncertainty(model, trace, states[last])["entropy"]
        for trace, states in zip(baseline, mi_lens.capture(model, baseline, [last]), strict=True)
    ]
    for by in get_args(Matching):
        found = mi_lens.matched_controls(
            model.tokenizer, baseline, words, by=by, draws=config.draws, seed=config.seed,
            entropy=entropy if by == "entropy" else None,
        )  # fmt: skip
        for i, control in enumerate(found):
            yield mi_lens.Condition((mi_lens.Suppress(control.words),), name=f"control: {by} {i}")


def recycling(model, config: Config):
    """Recycling at every layer, in both readings."""
    for layer in range(model.cfg.n_layers):
        for passes in config.passes:
            for trigger in ("candidate", "consumed"):
                recycle = mi_lens.Recycle(layer, config.reflection, passes, trigger)
                name = f"RR {trigger} layer {layer} x{passes}"
                yield mi_lens.Condition((recycle,), name=name)


def steering(model, config: Config):
    """SEAL at every layer, with a random direction of the same norm beside it."""
    problems = mi_lens.load_problems(
        "pocket", split="train", limit=config.vector_limit, seed=config.seed
    )
    made_from = mi_lens.generate(model, problems, batch_size=config.batch_size)
    hooks = [f"blocks.{layer}.hook_resid_post" for layer in range(model.cfg.n_layers)]
    for hook, vector in mi_lens.extract_steering_vectors(model, made_from, hooks).items():
        layer = hook.split(".")[1]
        for alpha in config.alphas:
            steer = mi_lens.Steer(vector, alpha=alpha)
            yield mi_lens.Condition((steer,), name=f"SEAL layer {layer} alpha {alpha:g}")
            control = mi_lens.Steer(vector, alpha=alpha, variant="random", seed=config.seed)
            yield mi_lens.Condition(
                (control,), name=f"random direction layer {layer} alpha {alpha:g}"
            )


def scaling(config: Config):
    """Thinking that goes on."""
    for times in (1, 2):
        forced = mi_lens.Continue(["Wait"], times)
        yield mi_lens.Condition((forced,), name=f"budget forcing x{times}")
    words = ["So", *config.reflection, "Alternatively"]
    yield mi_lens.Condition((mi_lens.Continue(words, 2),), name="TTTS cycling x2")


def _generate(
    model,
    problems: Sequence[mi_lens.Problem],
    conditions: Sequence[mi_lens.Condition],
    config: Config,
) -> dict[str, list[mi_lens.Trace]]:
    requests = [
        mi_lens.Request(problem, condition, max_new_tokens=config.max_new_tokens)
        for problem in problems
        for condition in conditions
    ]
    made = mi_lens.generate(model, requests, batch_size=config.batch_size)
    return {c.name: made[i :: len(conditions)] for i, c in enumerate(conditions)}


def row(
    name: str, traces: Sequence[mi_lens.Trace], baseline: Sequence[mi_lens.Trace]
) -> dict[str, Any]:
    """Accuracy, tokens, and their paired differences from the baseline, with intervals."""
    right, before = (np.array([_right(t) for t in some]) for some in (traces, baseline))
    length, length_before = (np.array([float(len(t)) for t in some]) for some in (traces, baseline))
    return {
        "condition": name,
        "accuracy": asdict(estimate_mean(right.tolist())),
        "difference": asdict(estimate_mean((right - before).tolist())),
        "mended": int((right > before).sum()),
        "broken": int((right < before).sum()),
        "tokens": float(length.mean()),
        "token_difference": asdict(estimate_mean((length - length_before).tolist())),
        "events": float(np.mean([len(trace.events) for trace in traces])),
        "finished": float(np.mean([trace.stop_reason == "eos" for trace in traces])),
    }


def _right(trace: mi_lens.Trace) -> float:
    assert trace.problem is not None
    return float(is_correct(trace.text, trace.problem.answer))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table as text."""
    lines = [f"{'condition':<34}{'acc.':>6}{'difference':>24}{'tokens':>8}{'acts':>7}"]
    for one in rows:
        d = one["difference"]
        apart = f"{100 * d['mean']:+.1f} ({100 * d['low']:+.1f} to {100 * d['high']:+.1f})"
        lines.append(
            f"{one['condition']:<34}{100 * one['accuracy']['mean']:>6.1f}{apart:>24}"
            f"{one['tokens']:>8.0f}{one['events']:>7.1f}"
        )
    return "\n".join(lines)


def draw(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Paired differences of accuracy and of tokens from the baseline."""
    some = rows[1:]
    y = np.arange(len(some))[::-1]
    control = [one["condition"].startswith(("control", "random")) for one in some]
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(PAGE, 0.4 + 0.13 * len(some)), sharey=True)
        for axis, field, scale, colour in (
            (axes[0], "difference", 100, BLUE), (axes[1], "token_difference", 1, ORANGE),
        ):  # fmt: skip
            for i, one in enumerate(some):
                mean, low, high = (scale * one[field][k] for k in ("mean", "low", "high"))
                shade = GREY if control[i] else colour
                axis.plot([low, high], [y[i]] * 2, color=shade, linewidth=0.9)
                axis.plot(mean, y[i], "o", color=shade, markersize=2.5)
            axis.axvline(0, color="black", linewidth=0.5)
        axes[0].set_yticks(y, [one["condition"] for one in some], fontsize=5)
        axes[0].set_ylim(-1, len(some))
        axes[0].set_xlabel("accuracy less baseline (points, 95 %)")
        axes[1].set_xlabel("tokens less baseline (95 %)")
    return figure


if __name__ == "__main__":
    main(tyro.cli(Config))
