r"""What a text gives as its answer: the last box, a stated answer, the last block of code."""

import re

BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
STATED = re.compile(r"(?:####|\banswer\b(?:\s+is\b|\s*:|\s*=))[\s*:=]*([^\n]+)", re.IGNORECASE)
FENCED = re.compile(r"^[ \t]*```[^\n]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)


def boxed_answer(text: str) -> str | None:
    r"""The content of the last `\boxed{...}` in a text, braces matched; None if there is none.

    A box that never closes counts as none, for a text cut off there says nothing yet. Escaped
    braces, as in `\left\{`, need no partner.
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

    Fast and strict: for built-in problems and inside loops. `mi_lens.problems.grading.grader.grade`
    knows that "1/2" and "0.5" are one number, and runs code.
    """
    answer = boxed_answer(text)
    return answer is not None and answer == gold.strip()


def stated_answer(text: str) -> str | None:
    """The rest of the last line that says "answer is", "answer:" or GSM8K's "####".

    Only what follows the thinking is read, where a text has an end of it.
    """
    stated = STATED.findall(reply(text))
    return stated[-1].strip() if stated else None


def code_block(text: str) -> str | None:
    """The last fenced block of code in the reply; None if there is none, or none that closes."""
    blocks = FENCED.findall(reply(text))
    return blocks[-1] if blocks else None


def reply(text: str) -> str:
    """What follows the thinking; the whole text if it has no end of thinking."""
    return text.rpartition("</think>")[2]
