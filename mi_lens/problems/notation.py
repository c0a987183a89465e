r"""One way of writing an answer: LaTeX and plain text that mean the same, as the same text."""

import re

SPACES = re.compile(r"\\[!,;: ]|~")
WRAPPED = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r"\$\$?([^$]*)\$\$?",
        r"\\\((.*)\\\)",
        r"\\\[(.*)\\\]",
        r"\*\*?([^*]*)\*\*?",
        r"\\(?:text|textbf|textit|mathrm|mathbf|mbox)\{([^{}]*)\}",
    )
)
ARGUMENT = r"\s*(?:\{((?:[^{}]|\{[^{}]*\})*)\}|(\\[A-Za-z]+|[^\s{}\\]))"
FRACTION = re.compile(rf"\\[dtc]?frac{ARGUMENT}{ARGUMENT}")
ROOT = re.compile(r"\\sqrt\s*(\\[A-Za-z]+|[^\s{}\\\[])")
THOUSANDS = re.compile(r"([+-]?\d{1,3})((?:(?:,|\{,\})\d{3})+)(\.\d+)?")
AT_THE_END = re.compile(r"(?:[.,;:!\s]|\\?%|\^\{?\\circ\}?|°)+$")
CURRENCY = re.compile(r"^([+-]?)\s*(?:\\?[$€£])\s*(?=[\d.])")


def normalised(answer: str) -> str:
    r"""An answer without what does not change its meaning.

    Taken away are: marks that enclose all of it ($...$, \text{...}, bold), LaTeX's spaces, a sign
    of a currency, commas between thousands, and at the end punctuation, per cent and degrees.
    Arguments of \frac and \sqrt get their braces, as in \frac \pi4.

    Args:
        answer: The answer, such as the content of a box.
    """
    text, before = SPACES.sub("", answer).strip(), None
    while text != before:
        before = text
        text = AT_THE_END.sub("", text).strip()
        for wrapped in WRAPPED:
            if (match := wrapped.fullmatch(text)) is not None:
                text = match[1].strip()
    text = ROOT.sub(r"\\sqrt{\1}", FRACTION.sub(_with_braces, text))
    text = CURRENCY.sub(r"\1", text)
    if (number := THOUSANDS.fullmatch(text)) is not None:
        text = number[1] + re.sub(r"\D", "", number[2]) + (number[3] or "")
    return " ".join(text.split())


def _with_braces(fraction: re.Match[str]) -> str:
    above, below = (
        FRACTION.sub(_with_braces, braced if braced is not None else bare)
        for braced, bare in (fraction.group(1, 2), fraction.group(3, 4))
    )
    return rf"\frac{{{above}}}{{{below}}}"


def differ_by_sign(a: str, b: str) -> bool:
    """Whether two answers are the same text, but for a minus at the start of one of them."""
    bare = [text.replace(" ", "") for text in (a, b)]
    return bare[0] == f"-{bare[1]}" or bare[1] == f"-{bare[0]}"
