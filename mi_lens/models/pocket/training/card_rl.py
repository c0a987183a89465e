"""Write the cards of pocket-rl and its base from what was measured and logged.

    python -m mi_lens.models.pocket.training.card_rl BASE RL

A card is `README.md` in the checkpoint's folder. Every number in it comes from `evaluation.json`
and `training.json` beside it.
"""

import json
from pathlib import Path
from typing import Any

import tyro

from mi_lens.models.pocket.training.evaluate import rate
from mi_lens.models.pocket.training.optional_checks import (
    CHECK_AT_ONCE,
    CHECK_LATE,
    OUTCOMES,
    VALUE_IS_RIGHT,
)
from mi_lens.problems.arithmetic import LEVEL_WEIGHTS

ABOUT = {
    "pocket-rl-base": (
        "The model that pocket-rl starts from. It learnt from traces that state a first value of a "
        "product and may check it, or not, whether or not the value is right."
    ),
    "pocket-rl": (
        "A very small language model that reasons aloud about integer arithmetic. It learnt the "
        "words from text in which checks do not depend on whether they are needed, and when to "
        "check by reinforcement from right answers."
    ),
}
LIMITS = """\
- It knows only this task. It answers any other prompt with nonsense.
- What its checks look like, and their words, were in the text. When it checks was not.
- The products of test problems occur in no training text, no drill and no update. Partial products
  (one digit by two) are shared with the training problems.
- In the text only an easy product was ever worked out before its value was stated, so a check is
  the usual way to a product that it cannot compute in one step. This makes checks useful by
  construction; where they are used is not by construction.
"""
CURVE_ROWS = 12


def points(estimate: dict[str, Any], signed: bool = False) -> str:
    """A share or a difference with its interval, in points."""
    if estimate["mean"] is None:
        return "no traces"
    mark = "+" if signed else ""
    text = f"{100 * estimate['mean']:{mark}.1f}"
    if estimate["low"] is None:
        return text
    return f"{text} ({100 * estimate['low']:{mark}.1f} to {100 * estimate['high']:{mark}.1f})"


def _rows(title: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [title, tuple("---" for _ in title), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _contrast(entry: dict[str, Any]) -> tuple[str, str, str]:
    return (
        points(entry["first"]), points(entry["second"]), points(entry["difference"], signed=True)
    )  # fmt: skip


def _behaviour(measured: dict[str, Any]) -> str:
    ways = ("sampled", "greedy")
    both = [measured[way] for way in ways]

    def row(name: str, *path: str) -> tuple[str, ...]:
        cells = []
        for found in both:
            for key in path:
                found = found[key]  # noqa: PLW2901
            cells.append(points(found))
        return (name, *cells)

    rows = [row(f"accuracy, {k}", "accuracy", k) for k in ("all", *LEVEL_WEIGHTS)]
    rows += [row(f"first value right, {k}", "value_right", k) for k in ("all", *LEVEL_WEIGHTS)]
    rows += [row(f"traces that reflect, {k}", "reflects", k) for k in ("all", *LEVEL_WEIGHTS)]
    rows += [
        row("reflections that compute", "reflections_that_compute"),
        row("first values worked out in full", "ways", "worked"),
        row("traces that end before the limit", "finished"),
        ("tokens per trace, mean", *(str(found["tokens"]["mean"]) for found in both)),
        ("reflections per trace", *(str(found["reflections_per_trace"]) for found in both)),
    ]
    return _rows(("% of traces (95 % interval)", "sampled at temperature 1", "greedy"), rows)


def _when(measured: dict[str, Any]) -> str:
    rows = []
    for way in ("sampled", "greedy"):
        found = measured[way]
        for level in ("all", *LEVEL_WEIGHTS):
            entry = found["reflects_by_value"][level]
            rows.append((f"{way}, {level}: value wrong, right", *_contrast(entry)))
        for level in ("all", *LEVEL_WEIGHTS):
            entry = found["reflects_by_entropy"][level]
            nats = entry["median_nats"]
            name = f"{way}, {level}: value's entropy above {nats:.2f} nats, at most that"
            rows.append((name, *_contrast(entry)))
    return _rows(("% of traces that reflect", "first", "second", "difference"), rows)


def _removed(measured: dict[str, Any]) -> str:
    rows = []
    for way in ("sampled", "greedy"):
        found = measured[way]
        for kind, name in (("value_right", "right"), ("value_wrong", "wrong")):
            entry = found["cut_before_reflection"][kind]
            if not entry["traces"]:
                continue
            rows.append(
                (
                    f"{way}: cut before the first reflection, first value {name}",
                    str(entry["traces"]),
                    *_contrast(entry),
                    str(entry["tokens_saved"]),
                )
            )
        entry = found["reflection_banned"]
        rows.append((f"{way}: no reflection words, all traces", str(measured["problems"]),
                     *_contrast(entry), ""))  # fmt: skip
    title = ("accuracy, %", "traces", "as they are", "without", "cost", "tokens saved")
    return _rows(title, rows)


def _curve(trained: dict[str, Any]) -> str:
    tests = [e for e in trained["curve"] if "held_out" in e]
    stride = max(1, -(-len(tests) // CURVE_ROWS))
    rows = []
    for entry in tests[::stride]:
        h = entry["held_out"]

        def cell(hits: float, of: float) -> str:
            found = rate([True] * int(hits) + [False] * int(of - hits))
            if not found["of"]:
                return "none"
            low, high = 100 * found["low"], 100 * found["high"]
            return f"{100 * found['share']:.0f} ({low:.0f} to {high:.0f})"

        rows.append(
            (
                str(entry["update"]),
                cell(h["right"], h["samples"]),
                f"{h['tokens'] / h['samples']:.0f}",
                cell(h["reflects"], h["samples"]),
                cell(h["reflects_wrong"], h["value_wrong"]),
                cell(h["reflects_right"], h["value_right"]),
                f"{entry['kl'] / max(1, entry['learned']):.4f}",
            )
        )
    title = ("update", "right, %", "tokens", "reflects, %", "where the value is wrong",
             "where it is right", "KL per token, nats")  # fmt: skip
    return _rows(title, rows)


def _training(name: str, trained: dict[str, Any]) -> str:
    settings, minutes = trained["settings"], trained["cpu_seconds"] / 60
    if name == "pocket-rl-base":
        shape = settings["shape"]
        return (
            f"Qwen2 architecture, {shape['layers']} layers, width {shape['width']}, "
            f"{shape['heads']} heads, {shape['key_value_heads']} key/value heads, MLP "
            f"{shape['mlp_width']}. Four of its layers began as those of pocket-reasoner, which "
            f"can compute; the others began as nothing. Trained on "
            f"{trained['tokens'] / 1e6:.1f} million tokens in {trained['steps']} steps, in "
            f"{minutes:.0f} minutes of CPU time. Its logits were then divided by "
            f"{settings['temperature']}: at the text's own temperature it slips so often that "
            f"every check pays.\n\n"
            f"`optional_checks.py` writes the text. A trace checks its first value at once with "
            f"probability {CHECK_AT_ONCE}, and its answer later with probability {CHECK_LATE}; "
            f"neither depends on the level, the value or the words. The first value is right with "
            f"probability {VALUE_IS_RIGHT['easy']}, {VALUE_IS_RIGHT['medium']} or "
            f"{VALUE_IS_RIGHT['hard']} by level, more where a factor invites it. A check gives the "
            f"right product and uses it with probability {OUTCOMES['computed']}, only says that "
            f"the value is right with {OUTCOMES['unworked']}, gets it wrong with "
            f"{OUTCOMES['slipped']}, and is not used with {OUTCOMES['ignored']}.\n\n"
            f"    python -m mi_lens.models.pocket.training.train --model pocket-rl-base "
            f"--shape.layers {shape['layers']} --start {settings['start']} "
            f"--matrix-rate {settings['matrix_rate']} --other-rate {settings['other_rate']} "
            f"--tokens {settings['tokens']} "
            f"--polish-tokens {settings['polish_tokens']} --compiled "
            f"--threads {settings['threads']} --temperature {settings['temperature']} --out BASE"
        )
    given = " ".join(
        f"--{key.replace('_', '-')} {settings[key]}"
        for key in ("groups", "group_size", "silent", "price", "kl_price", "rate", "workers")
    )
    return (
        f"On-policy reinforcement of pocket-rl-base by GRPO (arXiv 2402.03300): "
        f"{trained['updates']} updates, each of {settings['groups']} training problems with "
        f"{settings['group_size']} traces. A trace earns 1 for the right answer and pays "
        f"{settings['price']} per token and {settings['kl_price']} per nat of divergence from the "
        f"base. {settings['silent']} of the {settings['group_size']} traces are kept from writing "
        f"reflection words, so that the model goes on seeing what a problem gives without; those "
        f"that do better than the others count as if it had drawn them by itself. A problem of "
        f"which no trace is right is left out. {minutes:.0f} minutes of CPU time.\n\n"
        f"    python -m mi_lens.models.pocket.training.reinforce --start BASE --out DIR "
        f"--updates {trained['updates']} {given}\n\n"
        f"256 held-out problems of the validation split, one trace each at temperature 1:\n\n"
        f"{_curve(trained)}"
    )


def write_card(measured: dict[str, Any], trained: dict[str, Any]) -> str:
    """The card, in Markdown."""
    name = trained["settings"]["model"]
    sections = [
        f"---\nlicense: apache-2.0\nlibrary_name: transformers\n---\n\n# {name}\n\n{ABOUT[name]} "
        f"{measured['parameters']:,} parameters.",
        f"## Training\n\n{_training(name, trained)}",
        f"## What it does\n\n{measured['problems']} test problems, seed {measured['seed']}, at "
        f"most 512 new tokens, float32.\n\n{_behaviour(measured)}",
        f"## When it reflects\n\nA trace reflects if it writes a reflection or transition word. "
        f"The first value is what the second thought says the product is.\n\n{_when(measured)}",
        f"## What its reflections are worth\n\n{_removed(measured)}",
    ]
    if "against_base" in measured["sampled"]:
        rows = [(way, *_contrast(measured[way]["against_base"])) for way in ("sampled", "greedy")]
        table = _rows(("accuracy, %", "pocket-rl", "pocket-rl-base", "difference"), rows)
        sections.append(f"## Against its base\n\nPaired by problem.\n\n{table}")
    for example in measured["examples"]:
        sections.append(f"> {example['question']}\n\n```\n<think>\n{example['reply']}\n```")
    sections += [
        f"## Limits\n\n{LIMITS}",
        "Measured by `python -m mi_lens.models.pocket.training.evaluate_rl`, written by "
        "`python -m mi_lens.models.pocket.training.card_rl`.\n",
    ]
    return "\n\n".join(sections)


def main(base: tyro.conf.Positional[Path], reinforced: tyro.conf.Positional[Path]) -> None:
    """Write both cards from the numbers in the checkpoints' folders.

    Args:
        base: Folder of the checkpoint before reinforcement.
        reinforced: Folder of the checkpoint after it.
    """
    for folder in (base, reinforced):
        measured, trained = (
            json.loads((folder / f"{name}.json").read_text()) for name in ("evaluation", "training")
        )
        (folder / "README.md").write_text(write_card(measured, trained))


if __name__ == "__main__":
    tyro.cli(main)
