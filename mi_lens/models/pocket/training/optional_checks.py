"""Writes the text that pocket-rl starts from: traces whose checks are optional.

A trace states a first value of the product, goes on with the other terms, and answers. It may
check the value at once, check the answer later, do both, or do neither. Three things are drawn
apart from one another: whether the first value is right, whether a check follows, and how the
check turns out. So nothing in the text sends checks to where they are needed. Every word is drawn
uniformly, whatever the numbers are.
"""

from dataclasses import dataclass
from random import Random
from typing import Literal

from mi_lens.models.pocket.training.reasoning import draw_slip, product_steps, sum_steps
from mi_lens.models.pocket.training.wording import (
    AGREEMENTS,
    ALSO,
    BACKWARDS,
    CONCLUSIONS,
    CONFIRMATIONS,
    CORRECTIONS,
    DOUBTS,
    ESTIMATES,
    FINDINGS,
    HOLDS,
    INTERJECTIONS,
    LAST_WORDS,
    OPENINGS,
    OTHER_WAYS,
    RESTATEMENTS,
    RESULTS,
    STARTS,
    STEPS,
)
from mi_lens.problems.arithmetic import Exercise, Term, draw_product, show_expression, show_term

Way = Literal["guess", "rounded", "worked"]
Outcome = Literal["computed", "slipped", "unworked", "ignored"]

# How the first value is found. A worked value is computed in full, with a slip now and then; only
# an easy product is. Where any were, to work it out at once would always be better than to check.
WAYS: dict[str, dict[Way, float]] = {
    "easy": {"guess": 0.5, "rounded": 0.2, "worked": 0.3},
    "medium": {"guess": 0.7, "rounded": 0.3},
    "hard": {"guess": 0.7, "rounded": 0.3},
}
WORKED_SLIP = 0.05
# Probability that a guessed or rounded value is right. An inviting product, one with a factor that
# is a multiple of 11 or ends in 1 or 5, is guessed better, so a model can know which to trust.
VALUE_IS_RIGHT = {"easy": 0.9, "medium": 0.4, "hard": 0.2}
INVITING_IS_RIGHT = {"easy": 0.95, "medium": 0.75, "hard": 0.6}
# Probability of a check before the other terms, after the first answer, and once more.
CHECK_AT_ONCE, CHECK_LATE, CHECK_AGAIN = 0.4, 0.25, 0.1
# How a check of a product turns out: a right computation whose result is used; a wrong one; no
# computation, only words that confirm; a right computation whose result is not used.
OUTCOMES: dict[Outcome, float] = {
    "computed": 0.76, "slipped": 0.06, "unworked": 0.15, "ignored": 0.03,
}  # fmt: skip
# Share of the late checks that undo the last sum; share of the checks that open as another way.
UNDO_SHARE, OTHER_WAY_SHARE = 0.3, 0.2
RESTATE_SHARE, SWAP_TERMS_SHARE, SUM_SLIP = 0.5, 0.3, 0.02


@dataclass(frozen=True)
class Record:
    """What a trace did, for tests and counts of the text.

    Attributes:
        text: The text after the prompt.
        way: How the first value was found.
        first: The first value of the product.
        checks: Outcome of each check of the product, in order; "undone" for one of the last sum.
        at_once: Whether the first value was checked before the other terms.
        answer: The answer that the trace boxes: what its last product and its sums give.
    """

    text: str
    way: Way
    first: int
    checks: tuple[str, ...]
    at_once: bool
    answer: int


def is_inviting(a: int, b: int) -> bool:
    """Whether one of two factors is a multiple of 11, or ends in 1 or 5."""
    return any(x % 11 == 0 or x % 10 in (1, 5) for x in (a, b))


def rounded_steps(a: int, b: int) -> str:
    """The product of two factors after each is rounded to its first digit, as an equation."""
    x, y = (round(n, 1 - len(str(n))) if n > 9 else n for n in (a, b))
    return f"{x}*{y} = {x * y}"


def difference_steps(a: int, b: int) -> str:
    """The steps of a * b from the next multiple of ten above one factor, as 48 = 50 - 2."""
    fixed, moved = (a, b) if b > 9 else (b, a)
    up = -moved % 10
    high, low = fixed * (moved + up), fixed * up
    return f"{a}*{b} = {fixed}*{moved + up} - {fixed}*{up} = {high} - {low} = {a * b}"


def _in_range(exercise: Exercise, product: int) -> bool:
    """Whether no running total is below zero and the answer is below 1000, with this product."""
    totals = [product]
    for term in exercise.terms[1:]:
        totals.append(totals[-1] + term.value)
    return product > 0 and min(totals) >= 0 and totals[-1] < 1000


def draw_value(exercise: Exercise, rng: Random) -> int:
    """A first value of the product, right with a probability that depends on its factors."""
    product = exercise.terms[0].value
    inviting = is_inviting(*exercise.terms[0].factors)
    if rng.random() < (INVITING_IS_RIGHT if inviting else VALUE_IS_RIGHT)[exercise.level]:
        return product
    reach = max(12, product // 15)
    while True:
        value = product + rng.randint(-reach, reach)
        if value != product and _in_range(exercise, value):
            return value


def _draw_slip(exercise: Exercise, rng: Random) -> int:
    """The product with one digit off, or, where no such number would do, another near it."""
    product = exercise.terms[0].value
    for _ in range(8):
        value = draw_slip(product, rng)
        if _in_range(exercise, value):
            return value
    return next(v for d in range(1, 1000) for v in (product + d, product - d)
                if _in_range(exercise, v))  # fmt: skip


class _Trace:
    """A trace as it is written; `value` is the product that it holds to be right."""

    def __init__(self, exercise: Exercise, rng: Random):
        self.exercise, self.rng = exercise, rng
        self.text, self.checks = "", []
        self.terms = exercise.terms
        if len(self.terms) == 3 and rng.random() < SWAP_TERMS_SHARE:
            swapped = (self.terms[0], self.terms[2], self.terms[1])
            if self.terms[0].value + self.terms[2].value >= 0:
                self.terms = swapped
        self.value = self.answer = 0

    def pick(self, options: tuple[str, ...]) -> str:
        return self.rng.choice(options)

    def sentence(self, *slots: tuple[str, ...]) -> str:
        text = "".join(map(self.pick, slots))
        return text[0].upper() + text[1:]

    def open(self) -> None:
        if self.rng.random() < RESTATE_SHARE:
            shown = show_expression(self.exercise.terms, "*")
            self.text += self.sentence(OPENINGS, RESTATEMENTS).format(shown)
        else:
            self.text += self.pick(OPENINGS[:-1]).rstrip(", ") + "."

    def say_value(self, way: Way) -> None:
        a, b = self.exercise.terms[0].factors
        start = f"\n\n{self.pick(STARTS)}"
        if way == "worked":
            slip = self.rng.random() < WORKED_SLIP
            self.value = _draw_slip(self.exercise, self.rng) if slip else a * b
            self.text += f"{start}{self._worked(a, b, self.value)}."
            return
        self.value = draw_value(self.exercise, self.rng)
        near = f"{rounded_steps(a, b)}, so " if way == "rounded" else ""
        self.text += f"{start}{near}{a}*{b} {self.pick(ESTIMATES)} {self.value}."

    def _worked(self, a: int, b: int, value: int) -> str:
        """The steps of the product by one of several ways; they end in this value."""
        way = self.rng.choice((0, 0, 1, 1, 2))
        steps = (product_steps(a, b), product_steps(b, a), difference_steps(a, b))[way]
        return f"{steps.rsplit(' = ', 1)[0]} = {value}"

    def _doubt(self, subject: str, separator: str) -> None:
        if self.rng.random() < OTHER_WAY_SHARE:
            self.text += f"{separator}Alternatively{self.pick(OTHER_WAYS)}"
        else:
            self.text += separator + self.pick(INTERJECTIONS) + self.pick(DOUBTS).format(subject)

    def check(self, outcome: Outcome, separator: str) -> None:
        """Doubt the value, and keep or replace it."""
        a, b = self.exercise.terms[0].factors
        old = self.value
        self._doubt(f"{a}*{b}", separator)
        self.checks.append(outcome)
        if outcome == "unworked":
            self.text += f" {self.pick(FINDINGS)} {old}{self.pick(CONFIRMATIONS)}"
            return
        found = _draw_slip(self.exercise, self.rng) if outcome == "slipped" else a * b
        self.text += f" {self._worked(a, b, found)}"
        if outcome == "ignored":
            self.text += f", but {self.pick(RESULTS)} {old}{self.pick(CONFIRMATIONS)}"
        elif found == old:
            self.text += self.pick(AGREEMENTS)
        else:
            self.text += f". {self.pick(FINDINGS)} {found}{self.pick(CORRECTIONS).format(old)}"
            self.value = found

    def undo(self, separator: str) -> None:
        """Undo the last sum, and repeat it if it does not fit."""
        last = self.terms[-1].value
        total = self.value + sum(term.value for term in self.terms[1:-1])
        self._doubt(str(self.answer), separator)
        self.checks.append("undone")
        self.text += f"{self.pick(BACKWARDS)} {sum_steps(self.answer, -last)}"
        if self.answer == total + last:
            self.text += self.pick(HOLDS)
        else:
            self.answer = total + last
            self.text += f", not {total}. {self.pick(STEPS)}{sum_steps(total, last)}."

    def _sum(self, x: int, y: int, error: int) -> str:
        """X + y in one step, or the hundreds first; the result is off by `error`."""
        if self.rng.random() < 0.7:
            return sum_steps(x, y, error)
        return f"{x} {'+' if y > 0 else '-'} {abs(y)} = {x + y + error}"

    def go_on(self, again: bool = False) -> None:
        """Add the other terms to the product in one thought, and state the answer."""
        total, separator = self.value, "\n\n"
        for place, term in enumerate(self.terms[1:], 2):
            if len(term.factors) > 1 and not again:
                self.text += f"{separator}{self.pick(ALSO)}{_shown(term)} = {term.magnitude}."
                separator = " "
            error = 0
            if place == len(self.terms) and self.rng.random() < SUM_SLIP:
                error = draw_slip(total + term.value, self.rng) - total - term.value
            steps = self._sum(total, term.value, error)
            self.text += f"{separator}{self.pick(STEPS)}{steps}."
            total, separator = total + term.value + error, " "
        self.answer = total
        self.conclude()

    def conclude(self) -> None:
        self.text += f"\n\n{self.sentence(CONCLUSIONS, RESULTS)} {self.answer}."


def _shown(term: Term) -> str:
    return show_term(term, "*")


def record_trace(exercise: Exercise, rng: Random) -> Record:
    """Draw a trace; see `write_optional`."""
    # All that decides what happens is drawn first, each apart from the others and the numbers.
    ways = WAYS[exercise.level]
    way = rng.choices(tuple(ways), tuple(ways.values()))[0]
    at_once, late, again = (
        rng.random() < share for share in (CHECK_AT_ONCE, CHECK_LATE, CHECK_AGAIN)
    )
    outcomes = rng.choices(tuple(OUTCOMES), tuple(OUTCOMES.values()), k=3)
    trace = _Trace(exercise, rng)
    trace.open()
    trace.say_value(way)
    first = trace.value
    if at_once:
        trace.check(outcomes[0], "\n\n")
        if again:
            trace.check(outcomes[1], "\n\n")
    trace.go_on()
    if late and rng.random() < UNDO_SHARE:
        trace.undo("\n\n")
        trace.conclude()
    elif late:
        held = trace.value
        trace.check(outcomes[2], "\n\n")
        if trace.value != held:
            trace.go_on(again=True)
        else:
            trace.conclude()
    text = f"{trace.text}\n</think>\n\n{trace.pick(LAST_WORDS)} \\boxed{{{trace.answer}}}."
    return Record(text, way, first, tuple(trace.checks), at_once, trace.answer)


def write_optional(exercise: Exercise, rng: Random) -> str:
    """The text after the prompt: the rest of the think block, and the boxed answer.

    Args:
        exercise: The problem.
        rng: Draws what the trace does, and its words.
    """
    return record_trace(exercise, rng).text


def write_products(rng: Random, lines: int = 8) -> str:
    """A drill of products alone: in one step, by a difference, or rounded; one per line."""
    shown = []
    for _ in range(lines):
        a, b = draw_product(rng, rng.choice(("easy", "medium", "hard")), "train")
        equation = f"{a}*{b} = {a * b}"
        ways = (equation, product_steps(a, b), difference_steps(a, b), rounded_steps(a, b))
        shown.append(rng.choice(ways))
    return "\n".join(shown)
