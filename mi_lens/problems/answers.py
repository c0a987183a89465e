r"""Extracts the answer of a text: its last box, its stated answer, or its last block of code."""

import re

BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
STATED = re.compile(r"(?:####|\banswer\b(?:\s+is\b|\s*:|\s*=))[\s*:=]*([^\n]+)", re.IGNORECASE)
FENCED = re.compile(r"^[ \t]*```[^\n]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)


def boxed_answer(text: str) -> str | None:
    r"""The content of the last `\boxed{...}` in a text, to its matching brace; None without a box.

    If the last box never closes, the result is None: the text was cut off before the answer was
    complete. Escaped braces, as in `\left\{`, are not counted when braces are matched.
    """
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    begin = start + len("\\boxed{")
    depth = 1
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

    If the text contains "</think>", only the part after it is searched.
    """
    stated = STATED.findall(reply(text))
    return stated[-1].strip() if stated else None


def code_block(text: str) -> str | None:
    """The last closed, fenced block of code in the reply; None if there is none."""
    blocks = FENCED.findall(reply(text))
    return blocks[-1] if blocks else None


def reply(text: str) -> str:
    """The part of a text after "</think>"; the whole text if it does not contain that."""
    return text.rpartition("</think>")[2]
