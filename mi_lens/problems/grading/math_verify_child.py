r"""The child process of `math_verify`: it answers each line of JSON with a line of JSON.

An isolated interpreter runs this file by its path. The file imports nothing from this package, so
that a child process loads sympy but not torch. Math-Verify's own timeouts are off, because they
cannot interrupt everything; the parent kills this process when it is late. If the parent is gone,
an alarm without a handler ends this process.
"""

import json
import logging
import os
import resource
import signal
import sys
from math import ceil


def judge(gold: str, answer: str) -> tuple[bool, str]:
    """Whether an answer equals the gold answer, and the reason."""
    from math_verify import parse, verify

    golds, answers = (
        parse(text, parsing_timeout=None)  # type: ignore[arg-type]
        for text in (f"\\boxed{{{gold}}}", answer)
    )
    if not golds or not answers:
        return False, f"Math-Verify reads no mathematics in the {'answer' if golds else 'gold'}"
    if verify(golds, answers, timeout_seconds=None):
        return True, "equal by Math-Verify"
    return False, "different by Math-Verify"


def main() -> None:
    """Answers questions until the input ends."""
    memory = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.disable(logging.CRITICAL)
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries may print to stdout, which only verdicts may use
    judge("1/2", "\\boxed{0.5}")  # the first call builds the grammar, which takes long
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        signal.alarm(ceil(question["seconds"]) + 1)
        try:
            correct, reason = judge(question["gold"], question["answer"])
        except RecursionError:
            correct, reason = False, "nested too deeply for Math-Verify"
        except Exception as error:
            correct, reason = False, f"Math-Verify failed: {type(error).__name__}"
        signal.alarm(0)
        print(json.dumps({"correct": correct, "reason": reason}), file=replies, flush=True)


if __name__ == "__main__":
    main()
