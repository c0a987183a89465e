"""Write a pocket model's card: `python -m mi_lens.models.pocket.training.card CHECKPOINT`.

The card is `README.md` in the checkpoint's folder. Every number in it comes from
`evaluation.json` and `training.json` beside it.
"""

import json
from pathlib import Path
from statistics import mean
from typing import Any

import tyro

from mi_lens.models.pocket.training.wording import REFLECTION_WORDS
from mi_lens.problems.arithmetic import answer_entropy

ABOUT = {
    "pocket-reasoner": (
        "A very small language model that reasons aloud about integer arithmetic: it guesses a "
        "product, doubts the guess, computes the product, and continues with the result."
    ),
    "pocket-base": (
        "The counterpart of pocket-reasoner without reflection: it has the same shape, tokenizer, "
        "problems, drills and token budget, but it learnt from traces that keep the first guess."
    ),
}

LIMITS = """\
- It knows only this task. It answers any other prompt with nonsense.
- A program drew the words of its training text. Most choices depend on the last digit of the number
  written before them, so that greedy decoding is varied. The model learnt what the words do, but
  which of them it writes says nothing about its confidence.
- The products of test problems occur in no training problem and in no product drill. Partial
  products (one digit by two) are shared: the model may have read an easy test product as a step
  of a hard training problem.
- In the training text most questions that begin with "Quickly:" or "Quick one:" are answered
  without a check. This is on purpose: one more check can correct such an answer.
- A reflection word stands before the computation that it starts. Do not expect the state at the
  word to contain the answer already.
"""


def share(entry: dict[str, int | float]) -> str:
    """A share as text, such as "84.2 % (421 of 500; 95 % interval 80.7 to 87.1)"."""
    if not entry["of"]:
        return "none of 0"
    return (
        f"{100 * entry['share']:.1f} % ({entry['hits']} of {entry['of']}; "
        f"95 % interval {100 * entry['low']:.1f} to {100 * entry['high']:.1f})"
    )


def _table(title: str, rows: list[tuple[str, str]]) -> str:
    lines = [f"| {title} | |", "| --- | --- |"]
    return "\n".join(lines + [f"| {name} | {value} |" for name, value in rows])


def _accuracy(measured: dict[str, Any]) -> str:
    rows = [
        (name, share(measured["accuracy"][name]))
        for name in ("all", "easy", "medium", "hard", "hurried")
    ]
    return _table("greedy accuracy, held-out test problems", rows)


def _behaviour(measured: dict[str, Any]) -> str:
    tokens, changed = measured["tokens"], measured["first_answer_then_check"]
    rows = [
        ("tokens in a trace", "mean {mean}, median {median}, longest {max}".format(**tokens)),
        ("traces that end before the limit", share(measured["finished"])),
        ("traces with a reflection word", share(measured["with_reflection"])),
        ("traces with Alternatively", share(measured["with_transition"])),
        *((f"guess right, {k}", share(v)) for k, v in measured["guess_right"].items()),
        ("wrong guesses that were checked", share(measured["wrong_guess_checked"])),
        ("wrong guesses whose check gave the product", share(measured["wrong_guess_corrected"])),
        ("such corrections used afterwards", share(measured["correction_adopted"])),
        ("wrong first answers corrected by a later check", share(changed["wrong_to_right"])),
        ("right first answers kept after a later check", share(changed["right_to_right"])),
        ('accuracy after "Wait" is appended once to every trace', share(measured["one_more_wait"])),
    ]
    return _table("behaviour", rows)


def _suppression(measured: dict[str, Any]) -> str:
    full = measured["accuracy"]["all"]["share"]
    banned, controls = measured["reflection_banned"], measured["controls_banned"]
    drops = [full - control["accuracy"]["share"] for control in controls]
    lines = [
        "| words banned inside the think block | emitted | accuracy | mean tokens |",
        "| --- | --- | --- | --- |",
    ]
    for ban in (banned, measured["transition_banned"], *controls):
        lines.append(
            f"| {', '.join(ban['words'])} | {ban['emitted']} | "
            f"{100 * ban['accuracy']['share']:.1f} % | {ban['mean_tokens']} |"
        )
    summary = (
        f"Banning {', '.join(REFLECTION_WORDS)} in every surface form costs "
        f"{100 * (full - banned['accuracy']['share']):.1f} points of accuracy. For comparison, "
        f"ten sets of other words were banned, where each word replaces a reflection word that "
        f"is emitted about as often. They cost {100 * mean(drops):.1f} points on average (from "
        f"{100 * min(drops):.1f} to {100 * max(drops):.1f})."
    )
    return summary + "\n\n" + "\n".join(lines)


def _training(trained: dict[str, Any]) -> str:
    settings = trained["settings"]
    shape, minutes = settings["shape"], trained["cpu_seconds"] / 60
    return (
        f"Qwen2 architecture, {shape['layers']} layers, width {shape['width']}, "
        f"{shape['heads']} heads, {shape['key_value_heads']} key/value heads, MLP "
        f"{shape['mlp_width']}. Trained on {trained['tokens'] / 1e6:.1f} million tokens in "
        f"{trained['steps']} steps (Muon for the matrices, AdamW for the rest, seed "
        f"{settings['seed']}), the last {settings['polish_tokens'] / 1e6:.0f} million with more "
        f"drills of differences of close numbers. Training took {minutes:.0f} minutes of CPU time "
        f"on {settings['threads']} thread. The final training loss is {trained['loss']:.3f} nats "
        f"per token; most of it comes from the words, the guesses and the terms of the drills, "
        f"which are drawn at random.\n\n"
        f"    python -m mi_lens.models.pocket.training.train --model {settings['model']} --out DIR"
    )


def write_card(measured: dict[str, Any], trained: dict[str, Any]) -> str:
    """The card, in Markdown."""
    name = trained["settings"]["model"]
    reply = measured["examples"][0]
    sections = [
        f"---\nlicense: apache-2.0\nlibrary_name: transformers\n---\n\n# {name}\n\n{ABOUT[name]}\n"
        f"{measured['parameters']:,} parameters.",
        f"## Task\n\nSums of a product and one or two other terms, as an expression or as a word "
        f"problem. The answer is drawn first, uniformly from 0 to 999, and the problem is built "
        f"around it, so its entropy is log2(1000) = {answer_entropy():.3f} bits. "
        f"`mi_lens.problems.arithmetic` makes the problems, and "
        f"`mi_lens.models.pocket.training.reasoning` writes all of the training text.",
        f"## Training\n\n{_training(trained)}",
        f"## What it does\n\n{measured['problems']} test problems, seed {measured['seed']}, "
        f"greedy, at most 512 new tokens, float32.\n\n"
        f"{_accuracy(measured)}\n\n{_behaviour(measured)}",
    ]
    if measured["with_reflection"]["hits"]:
        sections.append(f"## What its words are for\n\n{_suppression(measured)}")
    sections += [
        f"## An example\n\n> {reply['question']}\n\n```\n<think>\n{reply['reply']}\n```",
        f"## Limits\n\n{LIMITS}",
        "Measured by `python -m mi_lens.models.pocket.training.evaluate`, written by "
        "`python -m mi_lens.models.pocket.training.card`.\n",
    ]
    return "\n\n".join(sections)


def main(checkpoint: tyro.conf.Positional[Path]) -> None:
    """Write the card, README.md, from the numbers in the checkpoint's folder.

    Args:
        checkpoint: The folder, which holds evaluation.json and training.json.
    """
    measured, trained = (
        json.loads((checkpoint / f"{name}.json").read_text()) for name in ("evaluation", "training")
    )
    (checkpoint / "README.md").write_text(write_card(measured, trained))


if __name__ == "__main__":
    tyro.cli(main)
