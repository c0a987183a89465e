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
        "product, doubts the guess, works it out, and adopts what it finds."
    ),
    "pocket-base": (
        "The plain twin of pocket-reasoner: the same shape, tokenizer, problems, drills and token "
        "budget, but the traces that it learnt from take the first guess as it is."
    ),
}

LIMITS = """\
- It knows this one task. Anything else in a prompt gives nonsense.
- Its wording was drawn by a program whose choices lean on the last digit of the number written
  last, so that greedy decoding is varied. What the words do is learnt; which of them stands where
  says nothing about confidence.
- The products of test problems occur in no training problem and in no product drill. Partial
  products (one digit by two) are shared: an easy test product may have been read as a step of
  a hard training problem.
- Questions that begin with "Quickly:" or "Quick one:" were mostly answered without a check in the
  training text, on purpose: those traces end with an unchecked answer that one more check mends.
- A reflection word stands before the computation that it sets off. Do not expect the state there
  to know the answer already.
"""


def share(entry: dict[str, int | float]) -> str:
    """Read out as in "84.2 % (421 of 500; 95 % interval 80.7 to 87.1)"."""
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
        ("ended by themselves", share(measured["finished"])),
        ("traces with a reflection word", share(measured["with_reflection"])),
        ("traces with Alternatively", share(measured["with_transition"])),
        *((f"guess right, {k}", share(v)) for k, v in measured["guess_right"].items()),
        ("wrong guesses that were checked", share(measured["wrong_guess_checked"])),
        ("wrong guesses whose check found the product", share(measured["wrong_guess_corrected"])),
        ("such corrections adopted", share(measured["correction_adopted"])),
        ("wrong first answers made right by a later check", share(changed["wrong_to_right"])),
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
        f"{100 * (full - banned['accuracy']['share']):.1f} points. Ten draws of as many other "
        f"words, each emitted about as often as the reflection word that it stands for, cost "
        f"{100 * mean(drops):.1f} points on average (from {100 * min(drops):.1f} to "
        f"{100 * max(drops):.1f})."
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
        f"drills of differences of close numbers. {minutes:.0f} minutes of CPU time on "
        f"{settings['threads']} thread. Final training loss {trained['loss']:.3f} nats a token; "
        f"most of it is the choice of words, the guesses and the terms of the drills, which are "
        f"drawn at random.\n\n"
        f"    python -m mi_lens.models.pocket.training.train --model {settings['model']} --out DIR"
    )


def write_card(measured: dict[str, Any], trained: dict[str, Any]) -> str:
    """The card, in Markdown."""
    name = trained["settings"]["model"]
    reply = measured["examples"][0]
    sections = [
        f"---\nlicense: apache-2.0\nlibrary_name: transformers\n---\n\n# {name}\n\n{ABOUT[name]}\n"
        f"{measured['parameters']:,} parameters.",
        f"## Task\n\nSums of a product and one or two other terms, bare or as a word problem. The "
        f"answer is drawn first, uniformly from 0 to 999, and the problem is built around it, so "
        f"its entropy is log2(1000) = {answer_entropy():.3f} bits. `mi_lens.problems.arithmetic` "
        f"makes the problems, `mi_lens.models.pocket.training.reasoning` the training text; no "
        f"text is from elsewhere.",
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
    """Write README.md from the numbers in the checkpoint's folder.

    Args:
        checkpoint: Folder with evaluation.json and training.json.
    """
    measured, trained = (
        json.loads((checkpoint / f"{name}.json").read_text()) for name in ("evaluation", "training")
    )
    (checkpoint / "README.md").write_text(write_card(measured, trained))


if __name__ == "__main__":
    tyro.cli(main)
