"""Measure a pocket model: `python -m mi_lens.models.pocket.training.evaluate CHECKPOINT`.

The numbers go to `evaluation.json` in the checkpoint's folder, from which
`mi_lens.models.pocket.training.card` writes the card. All problems come from the test split, and
all decoding is greedy.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from statistics import mean, median
from typing import Any

import torch
import tyro
from scipy.stats import binomtest
from transformers import AutoModelForCausalLM, AutoTokenizer

from mi_lens.models.pocket.training.decoding import Reply, reply_to
from mi_lens.models.pocket.training.tokenization import prompt_of
from mi_lens.models.pocket.training.wording import REFLECTING, REFLECTION_WORDS, TRANSITION_WORDS
from mi_lens.problems.arithmetic import LEVEL_WEIGHTS, Exercise, exercises, show_term

CONTROL_DRAWS = 10
CONTROL_POOL = 10
CONTINUATION = "\n\nWait"


@dataclass(frozen=True)
class EvaluationConfig:
    """What to measure.

    Attributes:
        checkpoint: Folder of the model.
        problems: Number of test problems, from the start of the stream.
        seed: Selects the stream of problems.
        threads: Number of CPU threads.
    """

    checkpoint: tyro.conf.Positional[Path]
    problems: int = 500
    seed: int = 0
    threads: int = 1


def boxed(text: str) -> int | None:
    numbers = re.findall(r"\\boxed\{(\d+)\}", text)
    return int(numbers[-1]) if numbers else None


def first_guess(exercise: Exercise, reply: Reply) -> int | None:
    """The first guess of the product, stated without a computation; None if there is none."""
    product = re.escape(show_term(exercise.terms[0], "*"))
    guess = re.search(rf"{product} [A-Za-z ]+ (\d+)\.", reply.thinking)
    return int(guess[1]) if guess else None


def checked_product(exercise: Exercise, reply: Reply) -> int | None:
    """The product as computed in a check; None if there was no check."""
    product = re.escape(show_term(exercise.terms[0], "*"))
    check = re.search(rf"{product} = [^.]*= (\d+)\.", reply.thinking)
    return int(check[1]) if check else None


def adopted(exercise: Exercise, reply: Reply) -> bool:
    """Whether the steps after the check start from the product that it computed."""
    product = checked_product(exercise, reply)
    later_steps = reply.thinking.split(f"= {product}.", 1)[-1]
    return bool(re.search(rf"\b{product} [+-] \d+ =", later_steps))


def first_answer_before_check(exercise: Exercise, reply: Reply) -> int | None:
    """The answer stated before the first check of the product; None if the check came first."""
    product = re.escape(show_term(exercise.terms[0], "*"))
    check = re.search(rf"{product} = ", reply.thinking)
    if check is None or reply.thinking.count("\n\n", 0, check.start()) < 3:
        return None
    stated = re.findall(r"\n\n[A-Za-z ,]+ (\d+)\.", reply.thinking[: check.start()])
    return int(stated[-1]) if stated else None


def rate(hits: Iterable[bool]) -> dict[str, int | float]:
    """A share with its 95 % Wilson interval."""
    hits = list(hits)
    if not hits:
        return {"hits": 0, "of": 0}
    interval = binomtest(sum(hits), len(hits)).proportion_ci(method="wilson")
    return {
        "hits": sum(hits),
        "of": len(hits),
        "share": round(sum(hits) / len(hits), 4),
        "low": round(interval.low, 4),
        "high": round(interval.high, 4),
    }


def words_of(reply: Reply) -> list[str]:
    """The words inside the think block that are single tokens, in lower case."""
    inside = reply.tokens[: reply.tokens.index("</think>")] if "</think>" in reply.tokens else ()
    items = (token.removeprefix("Ġ").lower() for token in inside or reply.tokens)
    return [item for item in items if item.isalpha() and item.isascii()]


def draw_controls(counts: Counter[str], seed: int) -> list[str]:
    """Draws, for each reflection word, another word that is emitted about as often."""
    rng = Random(f"controls/{seed}")
    excluded = {word.lower() for word in REFLECTING}
    chosen: list[str] = []
    for word in REFLECTION_WORDS:
        target = math.log(max(1, counts[word.lower()]))
        free = [w for w in counts if w not in excluded and w not in chosen]
        free.sort(key=lambda w: (abs(math.log(counts[w]) - target), w))
        chosen.append(rng.choice(free[:CONTROL_POOL]))
    return chosen


def describe(tested: Sequence[Exercise], replies: Sequence[Reply]) -> dict[str, Any]:
    """Accuracy, lengths, and how often guesses are right, checked and corrected."""
    pairs = list(zip(tested, replies, strict=True))
    right = [boxed(reply.text) == exercise.answer for exercise, reply in pairs]
    accuracy = {"all": rate(right)}
    guesses = {}
    for level in LEVEL_WEIGHTS:
        here = [(e, r) for e, r in pairs if e.level == level]
        accuracy[level] = rate(boxed(r.text) == e.answer for e, r in here)
        guesses[level] = rate(first_guess(e, r) == e.terms[0].value for e, r in here)
    accuracy["hurried"] = rate(boxed(r.text) == e.answer for e, r in pairs if e.hurried)
    wrong = [(e, r) for e, r in pairs if first_guess(e, r) != e.terms[0].value]
    corrected = [(e, r) for e, r in wrong if checked_product(e, r) == e.terms[0].value]
    late = [(e, r) for e, r in pairs if first_answer_before_check(e, r) is not None]
    lengths = [len(reply.tokens) for reply in replies]
    return {
        "accuracy": accuracy,
        "finished": rate(reply.finished for reply in replies),
        "tokens": {"mean": round(mean(lengths), 1), "median": median(lengths), "max": max(lengths)},
        "with_reflection": rate(_uses(REFLECTION_WORDS, r) for r in replies),
        "with_transition": rate(_uses(TRANSITION_WORDS, r) for r in replies),
        "guess_right": guesses,
        "wrong_guess_checked": rate(checked_product(e, r) is not None for e, r in wrong),
        "wrong_guess_corrected": rate((e, r) in corrected for e, r in wrong),
        "correction_adopted": rate(adopted(e, r) for e, r in corrected),
        "first_answer_then_check": {
            "wrong_to_right": rate(
                boxed(r.text) == e.answer
                for e, r in late
                if first_answer_before_check(e, r) != e.answer
            ),
            "right_to_right": rate(
                boxed(r.text) == e.answer
                for e, r in late
                if first_answer_before_check(e, r) == e.answer
            ),
        },
    }


def _uses(words: Iterable[str], reply: Reply) -> bool:
    return any(re.search(rf"\b{word}\b", reply.thinking) for word in words)


def evaluate(config: EvaluationConfig) -> dict[str, Any]:
    """Measure the model as it is, with words banned, and with one more "Wait" in every trace."""
    torch.set_num_threads(config.threads)
    model = AutoModelForCausalLM.from_pretrained(config.checkpoint, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(config.checkpoint)
    tested = list(islice(exercises("test", config.seed), config.problems))
    prompts = [prompt_of(exercise.question, tokenizer) for exercise in tested]

    def share_right(replies: Sequence[Reply]) -> dict[str, int | float]:
        pairs = zip(tested, replies, strict=True)
        return rate(boxed(reply.text) == exercise.answer for exercise, reply in pairs)

    def banning(words: Sequence[str]) -> dict[str, Any]:
        replies = reply_to(prompts, model, tokenizer, banned_words=words)
        return {
            "words": list(words),
            "emitted": sum(counts[word.lower()] for word in words),
            "accuracy": share_right(replies),
            "mean_tokens": round(mean(len(reply.tokens) for reply in replies), 1),
        }

    replies = reply_to(prompts, model, tokenizer)
    measured = describe(tested, replies)
    counts = Counter(word for reply in replies for word in words_of(reply))
    extended = [
        f"{prompt}{reply.thinking.rstrip()}{CONTINUATION}"
        for prompt, reply in zip(prompts, replies, strict=True)
    ]
    result = {
        "problems": config.problems,
        "seed": config.seed,
        "parameters": model.num_parameters(),
        **measured,
        "word_counts": dict(counts.most_common()),
        "one_more_wait": share_right(reply_to(extended, model, tokenizer)),
        "examples": _examples(tested, replies),
    }
    if measured["with_reflection"]["hits"]:
        result["reflection_banned"] = banning(REFLECTION_WORDS)
        result["transition_banned"] = banning(TRANSITION_WORDS)
        draws = [draw_controls(counts, i) for i in range(CONTROL_DRAWS)]
        result["controls_banned"] = [banning(words) for words in draws]
    return result


def _examples(tested: Sequence[Exercise], replies: Sequence[Reply]) -> list[dict[str, str]]:
    """The first right trace (the first that reflects, if any does) and the first wrong trace."""
    pairs = list(zip(tested, replies, strict=True))
    right = [(e, r) for e, r in pairs if boxed(r.text) == e.answer]
    reflecting = [(e, r) for e, r in right if _uses(REFLECTION_WORDS, r)] or right
    wrong = [(e, r) for e, r in pairs if boxed(r.text) != e.answer]
    return [
        {"question": e.question, "reply": r.text, "answer": str(e.answer)}
        for e, r in reflecting[:1] + wrong[:1]
    ]


def main(config: EvaluationConfig) -> None:
    result = evaluate(config)
    path = config.checkpoint / "evaluation.json"
    path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    print(json.dumps({key: result[key] for key in ("accuracy", "tokens", "finished")}, indent=2))


if __name__ == "__main__":
    main(tyro.cli(EvaluationConfig))
