"""What states say about the answer across problems, where along the trace, and what bounds follow.

    python -m experiments.information_across_problems

Draws figures/information_across_problems and figures/error_bounds, each with its numbers as JSON.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.figure import Figure
from tqdm import tqdm

import mi_lens
from mi_lens.grading import is_correct
from mi_lens.information.alignment import (
    AlignedSteps,
    at_answer,
    at_boundary,
    at_fraction,
    at_token,
    matched_tokens,
)
from mi_lens.information.answer import (
    AlignedInformation,
    answer_parts,
    correlate_with_trajectory,
    digits_information,
    information_at,
)
from mi_lens.information.bounds import accumulated_information, error_bounds
from mi_lens.information.independence import independence_test
from mi_lens.plots import BLUE, GREEN, GREY, ORANGE, PAGE, save_figure, style
from mi_lens.runs import versions

FRACTIONS = tuple(i / 10 for i in range(11))
OFFSETS = (-1, 0, 1)
BOUNDARIES = (1, 2, 3, 4, 5)
ANSWERS = 1000  # The pocket task's answers are 0 to 999, equally likely.


@dataclass(frozen=True)
class Config:
    """What to run.

    Attributes:
        model: A pocket model: the bounds need the entropy of its task's answers.
        limit: Number of problems.
        hook_name: Where to read; None takes the last block's hook_resid_post.
        words: Thinking tokens.
        parts: Parts of the answer that a probe reads.
        shuffles: Shuffled labellings for the floor.
        seed: Of problems, folds and intervals.
        out: Folder of the figures.
    """

    model: str = "pocket-reasoner"
    limit: int = 500
    hook_name: str | None = None
    words: tuple[str, ...] = ("Wait", "Hmm")
    parts: tuple[str, ...] = ("last_digit", "parity", "size")
    shuffles: int = 10
    seed: int = 0
    out: Path = Path("figures")


def main(config: Config) -> None:
    """Runs the study, draws both figures and prints what they hold."""
    model = mi_lens.load(config.model)
    hook = config.hook_name or f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    problems = mi_lens.load_problems("pocket", limit=config.limit, seed=config.seed)
    traces = mi_lens.generate(model, problems, batch_size=64)
    states = [s[hook] for s in mi_lens.capture(model, traces, [hook], progress=True)]
    mi = [
        mi_lens.hsic_mi(s, mi_lens.answer_state(model, problem, [hook])[hook]).tolist()
        for s, problem in zip(tqdm(states, desc="per-trace MI"), problems, strict=True)
    ]
    made_with = {
        **{k: v if not isinstance(v, Path) else str(v) for k, v in asdict(config).items()},
        "hook_name": hook,
        "fingerprint": mi_lens.model_fingerprint(model),
        "versions": versions(),
    }
    where = alignments(model.tokenizer, traces, config)
    found = information(where, states, mi, [p.answer for p in problems], config)
    save_figure(
        draw_information(found, config.parts),
        config.out / "information_across_problems",
        {**made_with, **found},
    )
    bounds = bounds_along(traces, states, config)
    save_figure(draw_bounds(bounds), config.out / "error_bounds", {**made_with, **bounds})
    print(table(found, config.parts))
    for part, tracking in found["tracking"].items():
        print(
            f"per-trace MI against bits of {part}, over {len(where)} aligned steps: Spearman "
            f"{tracking['rho']:.2f} ({tracking['low']:.2f} to {tracking['high']:.2f})"
        )


def alignments(tokenizer, traces: Sequence[mi_lens.Trace], config: Config) -> list[AlignedSteps]:
    """Every rule by which a step is found in each trace."""
    thinking = mi_lens.TokenSet.of(tokenizer, config.words).ids
    ordinary = matched_tokens(tokenizer, traces, thinking, seed=config.seed).values()
    steps = [at_fraction(traces, fraction) for fraction in FRACTIONS]
    steps += [at_boundary(tokenizer, traces, k, 1) for k in BOUNDARIES]
    steps += [at_token(traces, thinking, 1, offset) for offset in OFFSETS]
    steps += [at_token(traces, set(ordinary), 1, o, name="ordinary token") for o in OFFSETS]
    steps.append(at_answer(tokenizer, traces))
    return [step for step in steps if len(step.present) >= 100]


def information(
    where: Sequence[AlignedSteps],
    states: Sequence[Any],
    mi: Sequence[Sequence[float]],
    answers: Sequence[str],
    config: Config,
) -> dict[str, Any]:
    """Usable information and the kernel test at every aligned step."""
    rows = []
    informations: dict[str, list[AlignedInformation]] = {part: [] for part in config.parts}
    labels = {part: answer_parts(answers, part) for part in config.parts}  # type: ignore[arg-type]
    for at in tqdm(where, desc="probe"):
        row: dict[str, Any] = {
            "at": at.name,
            "problems": len(at.present),
            "trace_mi": float(at.values(mi).mean()),
        }
        for part in config.parts:
            found = information_at(
                at, states, labels[part], shuffles=config.shuffles, seed=config.seed
            )
            informations[part].append(found)
            row[part] = summary(found.usable)
        present = at.states(states)
        row["digits"] = summary(
            digits_information(
                present,
                [answers[i] for i in at.present],
                shuffles=config.shuffles,
                seed=config.seed,
            )
        )
        test = independence_test(
            present,
            [float(answers[i]) for i in at.present],
            numeric=True,
            permutations=199,
            seed=config.seed,
        )
        row["independence"] = {k: v for k, v in asdict(test).items() if isinstance(v, int | float)}
        rows.append(row)
    tracking = {
        part: asdict(correlate_with_trajectory(informations[part], mi, seed=config.seed))
        for part in config.parts
    }
    return {"rows": rows, "tracking": tracking}


def summary(usable: Any) -> dict[str, float]:
    """The numbers of one estimate."""
    low, high = usable.interval
    return {
        "bits": usable.bits,
        "low": low,
        "high": high,
        "floor": usable.floor,
        "floor_high": usable.floor_high,
        "entropy": usable.entropy,
        "error": usable.error,
    }


def table(found: dict[str, Any], parts: Sequence[str]) -> str:
    """Bits of each part at each step as text."""
    lines = [f"{'':<22}{'n':>5}{'MI':>8}" + "".join(f"{part:>12}" for part in (*parts, "digits"))]
    for row in found["rows"]:
        bits = "".join(f"{row[part]['bits']:>12.2f}" for part in (*parts, "digits"))
        lines.append(f"{row['at']:<22}{row['problems']:>5}{row['trace_mi']:>8.3f}{bits}")
    return "\n".join(lines)


def draw_information(found: dict[str, Any], parts: Sequence[str]) -> Figure:
    """Bits of each part of the answer, and the per-trace number, at every aligned step."""
    rows = found["rows"]
    names = [row["at"] for row in rows]
    x = np.arange(len(rows))
    with style():
        figure, axes = plt.subplots(
            len(parts) + 1, 1, figsize=(PAGE, 1.15 * (len(parts) + 1) + 0.9), sharex=True
        )
        for panel, part in zip(axes, parts, strict=False):
            bits = np.array([row[part]["bits"] for row in rows])
            low, high = (np.array([row[part][end] for row in rows]) for end in ("low", "high"))
            panel.errorbar(
                x, bits, [bits - low, high - bits], fmt="o", color=BLUE, markersize=3, capsize=2,
                label="usable information, 95 % interval",
            )  # fmt: skip
            panel.plot(
                x, [row[part]["floor_high"] for row in rows], "_", color=GREY, markersize=7,
                label="shuffled answers (95 % quantile)",
            )  # fmt: skip
            entropy = float(np.mean([row[part]["entropy"] for row in rows]))
            panel.axhline(entropy, color=GREEN, linestyle="--", linewidth=0.7, label="H(y)")
            panel.set_ylabel(f"{part.replace('_', ' ')}\n(bits)")
        axes[-1].plot(x, [row["trace_mi"] for row in rows], "D", color=ORANGE, markersize=3)
        axes[-1].set_ylabel("per-trace\nMI")
        axes[-1].set_xticks(x, names, rotation=60, ha="right", rotation_mode="anchor")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def bounds_along(
    traces: Sequence[mi_lens.Trace], states: Sequence[Any], config: Config
) -> dict[str, Any]:
    """Bounds on the error of the last digit, along the trace, with the errors there really are."""
    digits = answer_parts([trace.problem.answer for trace in traces if trace.problem], "last_digit")
    steps = [at_fraction(traces, fraction) for fraction in FRACTIONS]
    found: dict[str, Any] = {"fractions": FRACTIONS}
    sources: dict[str, Callable[[], list[Any]]] = {
        "step": lambda: [
            information_at(at, states, digits, shuffles=0, seed=config.seed).usable for at in steps
        ],
        "accumulated": lambda: list(
            accumulated_information(
                [at.states(states) for at in steps], digits, shuffles=0, seed=config.seed
            ).estimates
        ),
    }
    for name, estimate in sources.items():
        usable = estimate()
        bits = [u.bits for u in usable]
        if name == "accumulated":
            bits = np.maximum.accumulate(np.maximum(bits, 0)).tolist()
        bounds = error_bounds(float(np.log2(10)), bits, 10)
        found[name] = {
            "bits": bits,
            "lower": bounds.lower.tolist(),
            "upper": bounds.upper.tolist(),
            "probe_error": [u.error for u in usable],
        }
    wrong = [
        (trace.text.rsplit("\\boxed{", 1)[-1].split("}")[0][-1:] or "?") != str(digit)
        for trace, digit in zip(traces, digits, strict=True)
    ]
    found["model_error"] = float(np.mean(wrong))
    found["model_error_whole_answer"] = 1 - float(
        np.mean([is_correct(t.text, t.problem.answer) for t in traces if t.problem])
    )
    return found


def draw_bounds(found: dict[str, Any]) -> Figure:
    """Both theorems along the trace, beside the probe's error and the model's own."""
    titles = {"step": "from one step", "accumulated": "from all steps so far"}
    with style():
        figure, panels = plt.subplots(1, 2, figsize=(PAGE, 2.5), sharey=True)
        for panel, (name, title) in zip(panels, titles.items(), strict=True):
            data = found[name]
            x = found["fractions"]
            panel.fill_between(
                x, data["lower"], data["upper"], color=GREY, alpha=0.25, linewidth=0,
                label="between theorems 1 and 2",
            )  # fmt: skip
            panel.plot(x, data["probe_error"], "o-", color=BLUE, markersize=3, label="probe")
            panel.axhline(
                found["model_error"], color=ORANGE, linestyle="--", label="model's answer"
            )
            panel.set_title(title)
            panel.set_xlabel("fraction of the trace")
            panel.set_ylim(-0.03, 1)
        panels[0].set_ylabel("error of the last digit")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


if __name__ == "__main__":
    main(tyro.cli(Config))
