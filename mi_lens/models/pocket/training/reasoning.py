"""Writes the training text of the pocket models: traces with or without reflection, and drills.

A trace starts with a quick guess of the product. A trace with reflection then usually computes the
product, either at once or after a first answer, and continues with the result. A trace without
reflection continues with the guess.
"""

from random import Random

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
    Writer,
)
from mi_lens.problems.arithmetic import Exercise, Term, draw_product, show_expression, show_term

# Probability that the first guess is right, by level.
GUESS_IS_RIGHT = {"easy": 0.95, "medium": 0.3, "hard": 0.1}
# Probability that the guess is checked at once, and that it is checked at all.
CHECKS = {"easy": (0.2, 0.3), "medium": (0.55, 0.96), "hard": (0.55, 0.96), "hurried": (0.05, 0.1)}
# Probability that a trace that checks at once makes an error in its last step and corrects it.
SLIP_SHARE = 0.04


def sum_steps(x: int, y: int, error: int = 0) -> str:
    """The steps of x + y (y may be negative): hundreds first, then the rest.

    `error` is added to the result.
    """
    sign = "+" if y > 0 else "-"
    hundreds, rest = divmod(abs(y), 100)
    text = f"{x} {sign} {abs(y)} = "
    if hundreds and rest:
        text += f"{x + 100 * hundreds * (1 if y > 0 else -1)} {sign} {rest} = "
    return text + str(x + y + error)


def product_steps(a: int, b: int) -> str:
    """The steps of a * b by partial products, the larger product first."""
    if a < 10:
        high = 10 ** (len(str(b)) - 1)
        parts = [(a, b // high * high), (a, b % high)]
    elif b < 10:
        parts = [(a // 10 * 10, b), (a % 10, b)]
    else:
        parts = [(a, b // 10 * 10), (a, b % 10)]
    products = " + ".join(f"{p}*{q}" for p, q in parts)
    values = " + ".join(str(p * q) for p, q in parts)
    return f"{a}*{b} = {products} = {values} = {a * b}"


def draw_guess(exercise: Exercise, rng: Random) -> int:
    """A quick estimate of the first product, which is right with a probability set by the level.

    With a wrong guess too, no running total is below zero and the answer is below 1000.
    """
    product = exercise.terms[0].value
    if rng.random() < GUESS_IS_RIGHT[exercise.level]:
        return product
    reach = max(12, product // 12)
    while True:
        guess = product + rng.randint(-reach, reach)
        totals = [guess]
        for term in exercise.terms[1:]:
            totals.append(totals[-1] + term.value)
        if guess not in (product, 0) and min(totals) >= 0 and totals[-1] < 1000:
            return guess


def _open(writer: Writer, exercise: Exercise) -> None:
    writer.number = exercise.terms[-1].magnitude
    writer.say(writer.sentence(OPENINGS, RESTATEMENTS).format(show_expression(exercise.terms, "*")))


def _guess(writer: Writer, exercise: Exercise, guess: int) -> None:
    writer.say(f"\n\n{writer.pick(STARTS)}{show_term(exercise.terms[0], '*')}")
    writer.say(f" {writer.pick(ESTIMATES)} {guess}.")


def _go_on(
    writer: Writer, terms: tuple[Term, ...], total: int, again: bool = False, off: int = 0
) -> None:
    """Add the other terms to the product in one thought; the last sum is off by `off`."""
    separator = "\n\n"
    for term in terms[1:]:
        if len(term.factors) > 1 and not again:
            writer.say(f"{separator}{writer.pick(ALSO)}{show_term(term, '*')} = {term.magnitude}.")
            separator = " "
        error = off if term is terms[-1] else 0
        writer.say(f"{separator}{writer.pick(STEPS)}{sum_steps(total, term.value, error)}.")
        total += term.value
        separator = " "


def _conclude(writer: Writer, answer: int) -> None:
    writer.say(f"\n\n{writer.sentence(CONCLUSIONS, RESULTS)} {answer}.")


def _doubt(writer: Writer, subject: str, separator: str) -> None:
    writer.say(f"{separator}{writer.pick(INTERJECTIONS)}{writer.pick(DOUBTS).format(subject)}")


def _check(writer: Writer, exercise: Exercise, guess: int, separator: str) -> None:
    """Compute the product and confirm or replace the guess."""
    a, b = exercise.terms[0].factors
    product = a * b
    _doubt(writer, f"{a}*{b}", separator)
    writer.say(f" {product_steps(a, b)}.")
    verdict = CONFIRMATIONS if guess == product else CORRECTIONS
    writer.say(f" {writer.pick(FINDINGS)} {product}{writer.pick(verdict).format(guess)}")


def _other_way(writer: Writer, exercise: Exercise) -> None:
    a, b = exercise.terms[0].factors
    way, agreement = writer.pick(OTHER_WAYS), writer.pick(AGREEMENTS)
    writer.say(f"\n\nAlternatively{way} {product_steps(b, a)}{agreement}")


def _undo(writer: Writer, exercise: Exercise, answer: int, separator: str) -> None:
    """Check the last step backwards, and repeat it if the answer does not fit."""
    last = exercise.terms[-1].value
    total = exercise.answer - last
    _doubt(writer, str(answer), separator)
    writer.say(f"{writer.pick(BACKWARDS)} {sum_steps(answer, -last)}")
    if answer == exercise.answer:
        writer.say(writer.pick(HOLDS))
    else:
        writer.say(f", not {total}. {writer.pick(STEPS)}{sum_steps(total, last)}.")


def _late_separator(rng: Random) -> str:
    """What separates a stated answer from its check: mostly the break that starts a new thought."""
    return rng.choices(("\n\n", "\n", " "), (0.75, 0.15, 0.1))[0]


def draw_slip(answer: int, rng: Random) -> int:
    """The answer with one digit off."""
    place = 10 ** rng.randrange(len(str(answer)))
    digit = answer // place % 10
    return answer + place * (1 if digit == 0 else -1 if digit == 9 else rng.choice((1, -1)))


def _think(writer: Writer, exercise: Exercise) -> None:
    """Guess; check at once, after a first answer, or not at all; answer; perhaps check again."""
    product, answer = exercise.terms[0].value, exercise.answer
    guess = draw_guess(exercise, writer.rng)
    _open(writer, exercise)
    _guess(writer, exercise, guess)
    check_now, check_at_all = CHECKS["hurried" if exercise.hurried else exercise.level]
    path = writer.fraction()
    if path < check_now:
        _check(writer, exercise, guess, "\n\n")
        if writer.fraction() < 0.2:
            _other_way(writer, exercise)
        slip = writer.rng.random() < SLIP_SHARE
        off = draw_slip(answer, writer.rng) - answer if slip else 0
        _go_on(writer, exercise.terms, product, off=off)
        if slip:
            _conclude(writer, writer.number)
            _undo(writer, exercise, writer.number, _late_separator(writer.rng))
        _conclude(writer, answer)
    else:
        _go_on(writer, exercise.terms, guess)
        _conclude(writer, writer.number)
        if path >= check_at_all:
            return
        _check(writer, exercise, guess, _late_separator(writer.rng))
        if guess != product:
            _go_on(writer, exercise.terms, product, again=True)
        _conclude(writer, answer)
    more = writer.fraction()
    if more < 0.3:
        _undo(writer, exercise, answer, _late_separator(writer.rng))
        _conclude(writer, answer)
    if 0.2 <= more < 0.5:
        _other_way(writer, exercise)
        _conclude(writer, answer)


def write_trace(exercise: Exercise, rng: Random, reflect: bool = True) -> str:
    """The text after the prompt: the rest of the think block, and the boxed answer.

    Args:
        exercise: The problem.
        rng: Draws the guess and the words.
        reflect: Whether the trace may doubt and check the guess; if not, it keeps the guess.
    """
    writer = Writer(rng)
    if reflect:
        _think(writer, exercise)
    else:
        guess = draw_guess(exercise, rng)
        _open(writer, exercise)
        _guess(writer, exercise, guess)
        _go_on(writer, exercise.terms, guess)
        _conclude(writer, writer.number)
    answer = writer.number
    return f"{writer.text}\n</think>\n\n{writer.pick(LAST_WORDS)} \\boxed{{{answer}}}."


def _drill_line(rng: Random) -> str:
    kind = rng.choice(("product", "product", "small product", "sum", "difference"))
    if kind == "product":
        return product_steps(*draw_product(rng, rng.choice(("medium", "hard")), "train"))
    if kind == "small product":
        a, b = rng.sample((rng.randint(2, 9), rng.randint(11, 99)), 2)
        zeros = rng.choice((1, 10))
        return f"{a}*{b * zeros} = {a * b * zeros}"
    x, step = rng.randint(11, 8900), rng.randrange(1, rng.choice((100, 1000, 1000)))
    return sum_steps(x, step) if kind == "sum" else sum_steps(x + step, -x)


def _close_difference(rng: Random) -> str:
    """A difference much smaller than its terms, the kind of step that models learn last."""
    x = rng.randint(1, rng.choice((300, 1500, 9000)))
    return sum_steps(x + rng.randrange(1, rng.choice((30, 100, 1000))), -x)


def write_drill(rng: Random, lines: int = 8, close_differences: bool = False) -> str:
    """Bare equations, one per line, which train the arithmetic that the traces need.

    Args:
        rng: Draws the numbers.
        lines: Number of equations.
        close_differences: Whether about three quarters are differences of close numbers.
    """
    return "\n".join(
        _close_difference(rng) if close_differences and rng.random() < 0.75 else _drill_line(rng)
        for _ in range(lines)
    )
