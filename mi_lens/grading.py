r"""Grading by the last boxed answer.

What this does not cover: equal values written differently ("1/2" and "0.5") count as different.
"""


def boxed_answer(text: str) -> str | None:
    r"""The content of the last `\boxed{...}` in a text, braces matched; None if there is none."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    begin = start + len("\\boxed{")
    depth = 1
    for end in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[begin:end].strip()
    return None


def is_correct(text: str, gold: str) -> bool:
    """Whether a text's last boxed answer is the gold answer, character for character."""
    answer = boxed_answer(text)
    return answer is not None and answer == gold.strip()
