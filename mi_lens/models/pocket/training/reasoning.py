"""What the pocket models are trained to write: traces with or without reflection, and drills.

A trace opens with a quick guess of the product. The reflecting kind then works the product out,
there and then or after a first answer, and adopts what it finds; the plain kind goes on with the
guess.
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

# How often the first guess is right, by level.
GUESS_IS_RIGHT = {"easy": 0.95, "medium": 0.3, "hard": 0.1}
# How often the guess is checked at once, and how often it is checked at all.
CHECKS = {"easy": (0.2, 0.3), "medium": (0.55, 0.96), "hard": (0.55, 0.96), "hurried": (0.05, 0.1)}
# How often a checked trace slips in its last step, to find that out in the end.
SLIP_SHARE = 0.04


def sum_steps(x: int, y: int, error: int = 0) -> str:
    """Work out x + y (y may be negative): hundreds first, then the rest, and perhaps an error."""
    sign = "+" if y > 0 else "-"
    hundreds, rest = divmod(abs(y), 100)
    text = f"{x} {sign} {abs(y)} = "
    if hundreds and rest:
        text += f"{x + 100 * hundreds * (1 if y > 0 else -1)} {sign} {rest} = "
    return text + str(x + y + error)


def product_steps(a: int, b: int) -> str:
    """Work out a * b by partial products, the larger part first."""
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
    """A quick estimate of the first product: right with a probability set by the level.

    A wrong one lies near enough that every running total and the answer stay in range.
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


def _open(w: Writer, exercise: Exercise) -> None:
    w.number = exercise.terms[-1].magnitude
    w.say(w.sentence(OPENINGS, RESTATEMENTS).format(show_expression(exercise.terms, "*")))


def _guess(w: Writer, exercise: Exercise, guess: int) -> None:
    w.say(f"\n\n{w.pick(STARTS)}{show_term(exercise.terms[0], '*')}")
    w.say(f" {w.pick(ESTIMATES)} {guess}.")


def _go_on(
    w: Writer, terms: tuple[Term, ...], total: int, again: bool = False, off: int = 0
) -> None:
    """Add the other terms to the product in one thought; the last sum may be off."""
    separator = "\n\n"
    for term in terms[1:]:
        if len(term.factors) > 1 and not again:
            w.say(f"{separator}{w.pick(ALSO)}{show_term(term, '*')} = {term.magnitude}.")
            separator = " "
        error = off if term is terms[-1] else 0
        w.say(f"{separator}{w.pick(STEPS)}{sum_steps(total, term.value, error)}.")
        total += term.value
        separator = " "


def _conclude(w: Writer, answer: int) -> None:
    w.say(f"\n\n{w.sentence(CONCLUSIONS, RESULTS)} {answer}.")


def _doubt(w: Writer, subject: str, separator: str) -> None:
    w.say(f"{separator}{w.pick(INTERJECTIONS)}{w.pick(DOUBTS).format(subject)}")


def _check(w: Writer, exercise: Exercise, guess: int, separator: str) -> None:
    """Work the product out and put it in the guess's place."""
    a, b = exercise.terms[0].factors
    product = a * b
    _doubt(w, f"{a}*{b}", separator)
    w.say(f" {product_steps(a, b)}.")
    verdict = CONFIRMATIONS if guess == product else CORRECTIONS
    w.say(f" {w.pick(FINDINGS)} {product}{w.pick(verdict).format(guess)}")


def _other_way(w: Writer, exercise: Exercise) -> None:
    a, b = exercise.terms[0].factors
    w.say(f"\n\nAlternatively{w.pick(OTHER_WAYS)} {product_steps(b, a)}{w.pick(AGREEMENTS)}")


def _undo(w: Writer, exercise: Exercise, answer: int, separator: str) -> None:
    """Check the last step backwards, and do it again if the answer does not fit."""
    last = exercise.terms[-1].value
    total = exercise.answer - last
    _doubt(w, str(answer), separator)
    w.say(f"{w.pick(BACKWARDS)} {sum_steps(answer, -last)}")
    if answer == exercise.answer:
        w.say(w.pick(HOLDS))
    else:
        w.say(f", not {total}. {w.pick(STEPS)}{sum_steps(total, last)}.")


def _late_separator(rng: Random) -> str:
    """Before a check of a stated answer: a new thought, sometimes on the same or the next line."""
    return rng.choices(("\n\n", "\n", " "), (0.75, 0.15, 0.1))[0]


def _slip(answer: int, rng: Random) -> int:
    """The answer with one digit off."""
    place = 10 ** rng.randrange(len(str(answer)))
    digit = answer // place % 10
    return answer + place * (1 if digit == 0 else -1 if digit == 9 else rng.choice((1, -1)))


def _think(w: Writer, exercise: Exercise) -> None:
    """Guess; check now, or after a first answer, or not at all; answer; perhaps overthink."""
    product, answer = exercise.terms[0].value, exercise.answer
    guess = draw_guess(exercise, w.rng)
    _open(w, exercise)
    _guess(w, exercise, guess)
    check_now, check_at_all = CHECKS["hurried" if exercise.hurried else exercise.level]
    path = w.fraction()
    if path < check_now:
        _check(w, exercise, guess, "\n\n")
        if w.fraction() < 0.2:
            _other_way(w, exercise)
        slip = w.rng.random() < SLIP_SHARE
        _go_on(w, exercise.terms, product, off=_slip(answer, w.rng) - answer if slip else 0)
        if slip:
            _conclude(w, w.number)
            _undo(w, exercise, w.number, _late_separator(w.rng))
        _conclude(w, answer)
    else:
        _go_on(w, exercise.terms, guess)
        _conclude(w, w.number)
        if path >= check_at_all:
            return
        _check(w, exercise, guess, _late_separator(w.rng))
        if guess != product:
            _go_on(w, exercise.terms, product, again=True)
        _conclude(w, answer)
    more = w.fraction()
    if more < 0.3:
        _undo(w, exercise, answer, _late_separator(w.rng))
        _conclude(w, answer)
    if 0.2 <= more < 0.5:
        _other_way(w, exercise)
        _conclude(w, answer)


def write_trace(exercise: Exercise, rng: Random, reflect: bool = True) -> str:
    """What follows the prompt: the rest of the think block, and the boxed answer.

    Args:
        exercise: The problem.
        rng: Draws the guess and the words.
        reflect: Whether the guess is doubted and checked; else it is taken as it is.

    """
    w = Writer(rng)
    if reflect:
        _think(w, exercise)
    else:
        guess = draw_guess(exercise, rng)
        _open(w, exercise)
        _guess(w, exercise, guess)
        _go_on(w, exercise.terms, guess)
        _conclude(w, w.number)
    answer = w.number
    return f"{w.text}\n</think>\n\n{w.pick(LAST_WORDS)} \\boxed{{{answer}}}."


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
    """A difference much smaller than its terms: what the traces get wrong last."""
    x = rng.randint(1, rng.choice((300, 1500, 9000)))
    return sum_steps(x + rng.randrange(1, rng.choice((30, 100, 1000))), -x)


def write_drill(rng: Random, lines: int = 8, close_differences: bool = False) -> str:
    """Bare equations, one a line: the arithmetic that the traces lean on.

    Args:
        rng: Draws the numbers.
        lines: How many equations.
        close_differences: Whether three in four are differences of close numbers.
    """
    return "\n".join(
        _close_difference(rng) if close_differences and rng.random() < 0.75 else _drill_line(rng)
        for _ in range(lines)
    )
