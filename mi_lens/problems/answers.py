r"""Extracts the answer of a text: its last box, what it states, its closing number, its code."""

import re

from mi_lens.problems.think_kinds import split_reply

BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
STATED = re.compile(r"(?:####|\banswer\b[\s*_]*(?:\bis\b|:|=))[\s*:=]*([^\n]+)", re.IGNORECASE)
# What is said about an answer and is none.
VERDICT = re.compile(
    r"(?:in)?(?:correct|right|wrong|valid|consistent|reasonable|confirmed|verified|plausible)\b",
    re.IGNORECASE,
)
NUMBER = re.compile(r"(?<![\w.,])-?\d+(?:,\d{3})*(?:\.\d+)?(?![\w])", re.ASCII)
SENTENCES = re.compile(r"(?<=[.!?])\s+")
ENDED = re.compile(r"[.!)*$\]]\s*$")
FENCED = re.compile(r"^[ \t]*```[^\n]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)


def boxed_answer(text: str) -> str | None:
    r"""The content of the last `\boxed{...}` in a text, to its matching brace; None without a box.

    A reply after the think block is looked at alone, unless it is empty. If the last box never
    closes, the result is None: the text was cut off before the answer was complete. Escaped braces,
    as in `\left\{`, are not counted when braces are matched.
    """
    text = reply(text).strip() or text
    boxes = list(BOX.finditer(text))
    if not boxes:
        return None
    begin, depth = boxes[-1].end(), 1
    for brace in BRACES.finditer(text, begin):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return text[begin : brace.start()].strip()
    return None


def is_correct(text: str, gold: str) -> bool:
    """Whether a text's last boxed answer is the gold answer, character for character.

    This is fast and strict: use it for built-in problems and inside loops.
    `mi_lens.problems.grading.grader.grade` also knows that "1/2" equals "0.5", and runs code.
    """
    answer = boxed_answer(text)
    return answer is not None and answer == gold.strip()


def stated_answer(text: str) -> str | None:
    """The text after the last "answer is", "answer:" or GSM8K's "####", up to the end of its line.

    If the text closes a think block, only the part after it is searched. A sentence about an
    answer, such as "this answer is correct", counts only if there is no other.
    """
    stated = [found.strip() for found in STATED.findall(reply(text))]
    answers = [found for found in stated if not VERDICT.match(found)] or stated
    return answers[-1] if answers else None


def given_answer(text: str) -> tuple[str | None, bool]:
    """The answer that a text gives, boxed or stated, and whether a box holds it.

    If a reply gives none and has no closing number either, a box in the thinking counts.
    """
    thought, _ = split_reply(text)
    if boxed := boxed_answer(text):
        return boxed, True
    if stated := stated_answer(text):
        return stated, False
    if thought and closing_number(text, "") is None and (boxed := boxed_answer(thought)):
        return boxed, True
    return None, False


def closing_number(text: str, question: str) -> str | None:
    """The number that the last sentence of a reply gives; None if it gives none.

    Of several numbers it is the last that the question does not hold: "Jerry will be 13 years old
    in 3 years" answers "How old will Jerry be in 3 years?" by 13. A text that stops within a
    sentence was cut off, and closes with nothing.
    """
    lines = reply(text).strip().splitlines()
    if not lines or not ENDED.search(lines[-1]):
        return None
    numbers = NUMBER.findall(SENTENCES.split(lines[-1].strip())[-1])
    asked = {number.replace(",", "") for number in NUMBER.findall(question)}
    new = [number for number in numbers if number.replace(",", "") not in asked]
    return (new or numbers or [None])[-1]


def code_block(text: str) -> str | None:
    """The last closed, fenced block of code in the reply; None if there is none."""
    blocks = FENCED.findall(reply(text))
    return blocks[-1] if blocks else None


def reply(text: str) -> str:
    """The part of a text after its think block; the whole text if it closes none."""
    return split_reply(text)[1]
