"""The pocket task: integer arithmetic whose answers are uniform on 0..999 by construction.

The gold answer is drawn first and the problem is built around it. The entropy of the answer over
problems is therefore exactly log2(1000) bits for every wording, split and level.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from random import Random

from mi_lens.problems.problem import Problem

ANSWERS = 1000
SPLITS = ("train", "validation", "test")
LEVEL_WEIGHTS = {"easy": 0.25, "medium": 0.25, "hard": 0.5}
FORM_WEIGHTS = {"a*b+c": 0.45, "a*b+c+d": 0.3, "a*b+c*d+e": 0.25}
HURRIED_SHARE = 0.06
WORD_PROBLEM_SHARE = 0.4

BARE = ("What is {e}?", "Compute {e}.", "Find {e}.", "Work out {e}.", "{e} = ?", "Calculate {e}.")
HURRY = ("Quickly: ", "Quick one: ")
THINGS = (
    ("boxes", "pens"),
    ("bags", "nuts"),
    ("rows", "seats"),
    ("crates", "apples"),
    ("packs", "cards"),
    ("jars", "beans"),
)
GONE = ("are sold", "are taken away", "are given away", "are lost")
COME = ("are added", "arrive", "are bought", "are found")


@dataclass(frozen=True)
class Term:
    """One summand with its sign: a number, or a product of two numbers."""

    sign: int
    factors: tuple[int, ...]

    @property
    def magnitude(self) -> int:
        return math.prod(self.factors)

    @property
    def value(self) -> int:
        return self.sign * self.magnitude


@dataclass(frozen=True)
class Exercise:
    """A pocket problem together with its numbers, which the writers of traces need.

    Attributes:
        terms: The summands; the first is the hardest product and is positive.
        level: "easy" (1 digit by 2 digits), "medium" (1 by 3) or "hard" (2 by 2).
        question: The question, without any template.
    """

    terms: tuple[Term, ...]
    level: str
    question: str

    @property
    def answer(self) -> int:
        return sum(term.value for term in self.terms)

    @property
    def hurried(self) -> bool:
        """Whether the question asks for a quick reply."""
        return self.question.startswith(HURRY)

    @property
    def solution(self) -> str:
        """The calculation as sentences; the last one states the answer."""
        steps = [
            f"{show_term(term)} = {term.magnitude}" for term in self.terms if len(term.factors) > 1
        ]
        total = self.terms[0].value
        for term in self.terms[1:]:
            sign = "+" if term.sign > 0 else "-"
            steps.append(f"{total} {sign} {term.magnitude} = {total + term.value}")
            total += term.value
        return ". ".join(steps) + f". The answer is {total}."

    def as_problem(self, id: str, split: str) -> Problem:
        return Problem(
            id=id,
            question=self.question,
            answer=str(self.answer),
            solution=self.solution,
            source="pocket",
            split=split,
            level=self.level,
        )


def show_term(term: Term, times: str = " * ") -> str:
    return times.join(map(str, term.factors))


def show_expression(terms: Sequence[Term], times: str = " * ") -> str:
    """The sum as text, such as "89 * 79 - 6412"."""
    text = show_term(terms[0], times)
    for term in terms[1:]:
        text += (" + " if term.sign > 0 else " - ") + show_term(term, times)
    return text


def split_of(a: int, b: int) -> str:
    """The split to which the product of two factors belongs, in either order."""
    low, high = sorted((a, b))
    bucket = hashlib.blake2b(f"{low}*{high}".encode(), digest_size=4).digest()[0] % 8
    return {0: "test", 1: "validation"}.get(bucket, "train")


def _draw_factors(rng: Random, level: str) -> tuple[int, int]:
    if level == "easy":
        pair = rng.randint(3, 9), rng.randint(12, 99)
    elif level == "medium":
        pair = rng.randint(3, 9), rng.randint(112, 999)
    else:
        pair = rng.randint(21, 99), rng.randint(21, 99)
    return pair if rng.random() < 0.5 else (pair[1], pair[0])


def draw_product(rng: Random, level: str, split: str) -> tuple[int, int]:
    """Two factors whose sizes fit the level and whose product is the split's; none ends in 0."""
    while True:
        a, b = _draw_factors(rng, level)
        if a % 10 and b % 10 and split_of(a, b) == split:
            return a, b


def _draw_terms(rng: Random, level: str, split: str, answer: int) -> tuple[Term, ...]:
    """Terms that sum to the answer, with no running total below zero."""
    form = rng.choices(list(FORM_WEIGHTS), list(FORM_WEIGHTS.values()))[0]
    while True:
        terms = [Term(1, draw_product(rng, level, split))]
        if form == "a*b+c+d":
            terms.append(Term(rng.choice((1, -1)), (rng.randint(11, 999),)))
        elif form == "a*b+c*d+e":
            terms.append(Term(rng.choice((1, -1)), draw_product(rng, "easy", split)))
        total = sum(term.value for term in terms)
        if total >= 0 and total != answer:
            sign = 1 if answer > total else -1
            return (*terms, Term(sign, (abs(answer - total),)))


def _word_question(rng: Random, terms: Sequence[Term]) -> str:
    container, item = rng.choice(THINGS)
    a, b = terms[0].factors
    sentences = [f"There are {a} {container} of {b} {item}."]
    for term in terms[1:]:
        amount = f" {container} of ".join(map(str, term.factors))
        verb = rng.choice(COME if term.sign > 0 else GONE)
        sentences.append(f"Then {amount} {item} {verb}.")
    sentences.append(f"How many {item} are there now?")
    return " ".join(sentences)


def draw_exercise(rng: Random, split: str) -> Exercise:
    """Draw an exercise; its answer is drawn first, so that nothing else can bias it."""
    answer = rng.randrange(ANSWERS)
    level = rng.choices(list(LEVEL_WEIGHTS), list(LEVEL_WEIGHTS.values()))[0]
    terms = _draw_terms(rng, level, split, answer)
    if rng.random() < WORD_PROBLEM_SHARE:
        question = _word_question(rng, terms)
    else:
        question = rng.choice(BARE).format(e=show_expression(terms))
    if rng.random() < HURRIED_SHARE:
        question = rng.choice(HURRY) + question
    return Exercise(terms, level, question)


def exercises(split: str, seed: int = 0) -> Iterator[Exercise]:
    """An endless stream of a split's exercises; the i-th depends only on split, seed and i."""
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; expected one of {', '.join(SPLITS)}")
    for index in count():
        yield draw_exercise(Random(f"pocket/{split}/{seed}/{index}"), split)


def pocket_problems(
    n: int, split: str = "test", seed: int = 0, levels: Sequence[str] | None = None
) -> list[Problem]:
    """The first n problems of a stream that have one of the given levels.

    Args:
        n: Number of problems.
        split: "train", "validation" or "test"; no product of one split occurs in another.
        seed: Selects the stream. Ids have the form "pocket/{split}/{seed}/{index in the stream}".
        levels: Which of "easy", "medium" and "hard" to keep; all by default.

    Raises:
        ValueError: If n is negative, or a split or level does not exist.
    """
    if n < 0:
        raise ValueError(f"n is {n}; expected a number of problems, 0 or more")
    wanted = set(LEVEL_WEIGHTS if levels is None else levels)
    if not wanted or not wanted <= set(LEVEL_WEIGHTS):
        raise ValueError(f"levels is {levels!r}; expected some of {', '.join(LEVEL_WEIGHTS)}")
    numbered = enumerate(exercises(split, seed))
    chosen = ((i, exercise) for i, exercise in numbered if exercise.level in wanted)
    return [
        exercise.as_problem(f"pocket/{split}/{seed}/{i}", split)
        for i, exercise in islice(chosen, n)
    ]


def answer_entropy() -> float:
    """Entropy of the gold answer over problems, in bits: log2(1000), about 9.97."""
    return math.log2(ANSWERS)
