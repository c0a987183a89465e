r"""The same gold answer under other endings: the text that a model reads as the answer.

MI compares states with the state at the answer's last token, and that state is about what comes
next. The last characters of the text can therefore decide where MI peaks.
"""

import re
from collections.abc import Callable
from typing import Literal, get_args

from num2words import num2words

from mi_lens.problems.problem import Problem

AnswerSite = Literal["solution_last", "answer_last", "answer_mean"]
Ending = Literal[
    "as_written",
    "bare",
    "period",
    "blank_line",
    "dollar",
    "bracket",
    "boxed",
    "in_words",
    "paraphrase",
]
ENDINGS: tuple[Ending, ...] = get_args(Ending)

WHOLE = re.compile(r"-?\d{1,15}")
STATED = "The answer is "  # As `Exercise.solution` states it.
WRITTEN: dict[Ending, Callable[[str, str], str]] = {  # From what stands before, and the answer.
    "bare": lambda before, answer: f"{before}{answer}",
    "period": lambda before, answer: f"{before}{answer}.",
    "blank_line": lambda before, answer: f"{before}{answer}.\n\n",
    "dollar": lambda before, answer: f"{before}${answer}$",
    "bracket": lambda before, answer: rf"{before}\[{answer}\]",
    "boxed": lambda before, answer: f"{before}\\boxed{{{answer}}}",
    "in_words": lambda before, answer: f"{before}{in_words(answer)}",
    "paraphrase": lambda before, answer: f"{before.removesuffix(STATED)}So the result is {answer}.",
}


def answer_text(problem: Problem, site: AnswerSite, ending: Ending = "as_written") -> str:
    r"""The text whose last token, or whose mean, is the answer state.

    Args:
        problem: The problem.
        site: "solution_last" reads the worked solution, the others read the answer.
        ending: How the text ends. "as_written" leaves the text as it is. The others write the
            answer at its end anew: "bare" as 70, "period" as "70.", "blank_line" as "70." and a
            blank line, "dollar" as $70$, "bracket" as \[70\], "boxed" as \boxed{70}, "in_words" as
            seventy, "paraphrase" as "So the result is 70." A text that does not end with the answer
            and nothing but a full stop gets the sentence "The answer is 70" first.

    Raises:
        ValueError: If the ending or the site is unknown, if the problem lacks the solution or the
            answer, or if the answer is no whole number and the ending is "in_words".
    """
    if ending not in ENDINGS:
        raise ValueError(f"ending={ending!r}: expected one of {ENDINGS}")
    if site not in get_args(AnswerSite):
        raise ValueError(f"site={site!r}: expected one of {get_args(AnswerSite)}")
    text = problem.solution if site == "solution_last" else problem.answer
    if not text:
        wanted = "solution" if site == "solution_last" else "answer"
        raise ValueError(
            f"problem {problem.id} has no {wanted}; use another site than {site!r} "
            f"(expected one of {get_args(AnswerSite)})"
        )
    if ending == "as_written":
        return text
    answer = problem.answer.strip().removesuffix(".")
    if not answer:
        raise ValueError(f"problem {problem.id} has no answer that could be written as {ending!r}")
    at_end = re.search(rf"(?<![\w.,+-]){re.escape(answer)}\.?\s*$", text)
    before = text[: at_end.start()] if at_end is not None else f"{text.rstrip()} {STATED}"
    return WRITTEN[ending](before, answer)


def endings_of(problem: Problem, site: AnswerSite) -> dict[Ending, str]:
    """The text under every ending that the answer can have; not every answer has words."""
    whole = WHOLE.fullmatch(problem.answer.strip().removesuffix(".")) is not None
    return {
        ending: answer_text(problem, site, ending)
        for ending in ENDINGS
        if whole or ending != "in_words"
    }


def in_words(answer: str) -> str:
    """A whole number in English words, such as "seventy".

    Raises:
        ValueError: If the answer is not a whole number in at most 15 digits.
    """
    if not WHOLE.fullmatch(answer):
        raise ValueError(
            f"answer {answer[:40]!r} is no whole number of at most 15 digits; expected one for the "
            "ending 'in_words'"
        )
    return num2words(int(answer))
