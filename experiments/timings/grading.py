r"""Times grading: answers per minute, and the time that hostile answers take.

    python -m experiments.timings.grading --math PATH/math_train.jsonl

The timed answers go through Math-Verify: "1 \cdot answer" is written for the gold answer and for
that of the next problem, so that neither equal text nor plain integers decide. The time includes
the start of child processes. In the second table the same grader grades an honest answer after each
hostile one.
"""

import argparse
import time
from collections import Counter
from pathlib import Path

from mi_lens.problems.grading.grader import Grade, Grader, grade_all
from mi_lens.problems.grading.sandbox import isolation, run_program
from mi_lens.problems.loading import load_problems
from mi_lens.problems.problem import Problem

HOSTILE = {
    "powers of powers": r"9^{9^{9^{9^{9}}}}",
    "factorial of factorials": "99999!!!!",
    "1 MB of ( in a box": "(" * 1_000_000,
    "1 MB of balanced braces": "{" * 500_000 + "1" + "}" * 500_000,
    "2,000 (": "(" * 1_900,
    "2,000 balanced braces": "{" * 900 + "1" + "}" * 900,
    "200 nested roots": r"\sqrt{" * 200 + "2" + "}" * 200,
    "150 nested fractions": r"\frac{1}{1+" * 150 + "1" + "}" * 150,
    "braces unbalanced": r"\frac{1}{{{2}",
    "a sum of 400 terms": "+".join(map(str, range(400))),
    "a product of 200 factors": "".join(f"(x+{n})" for n in range(200)) + "^{9}",
    "an integral without a name": r"\int_0^\infty \frac{\sin(x^x)}{\ln(x+e^{x^2})} dx",
    "a sum to 10^12": r"\sum_{n=1}^{10^{12}} \frac{1}{n!^n}",
    "a binomial coefficient": r"\binom{10^{9}}{5 \cdot 10^{8}}",
    "Python": "__import__('os').system('true')",
    "NUL and half a surrogate": "1\0\ud800",
}
HONEST = r"\boxed{\frac{84}{2}}"


def main() -> None:
    """Prints the rates, the table of hostile answers, and the time of a program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--math", type=Path, required=True, help="a file of problems in mathematics"
    )
    parser.add_argument("--limit", type=int, default=1500)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0, help="time for one answer")
    args = parser.parse_args()

    problems = load_problems(args.math, limit=args.limit)
    golds = [problem.answer for problem in problems]
    throughput("1 \\cdot gold", [f"1 \\cdot {gold}" for gold in golds], problems, args.workers)
    others = [f"1 \\cdot {gold}" for gold in (*golds[1:], golds[0])]
    throughput("another problem's", others, problems, args.workers)
    throughput("gold, equal text", golds, problems, args.workers)

    print_hostile(args.seconds)
    start = time.perf_counter()
    for _ in range(20):
        run_program("print(input())", "1\n")
    print(f"\na program in {isolation()}: {(time.perf_counter() - start) / 20 * 1e3:.0f} ms")


def print_hostile(limit: float) -> None:
    """Grades every hostile answer in a box and stated, then an honest one; prints the times."""
    print(f"\n{'hostile answer':28} {'box s':>7} {'stated s':>9} {'next s':>7}  reason, boxed")
    with Grader(seconds=limit) as grader:
        for name, answer in HOSTILE.items():
            boxed, box_time = timed(grader, f"\\boxed{{{answer}}}")
            stated, stated_time = timed(grader, f"The answer is {answer}")
            honest, next_time = timed(grader, HONEST)
            if boxed.correct or stated.correct or not honest.correct:
                raise AssertionError(f"{name}: graded wrongly: {boxed}, {stated}, {honest}")
            times = f"{box_time:7.3f} {stated_time:9.3f} {next_time:7.3f}"
            print(f"{name:28} {times}  {boxed.reason}", flush=True)


def throughput(name: str, answers: list[str], problems: list[Problem], workers: int) -> None:
    """Grades answers and prints the rate, with the start and end of child processes."""
    start = time.perf_counter()
    texts = [f"\\boxed{{{answer}}}" for answer in answers]
    grades = grade_all(texts, problems, workers=workers)
    elapsed = time.perf_counter() - start
    right = sum(grade.correct for grade in grades)
    methods = dict(Counter(grade.method for grade in grades))
    print(
        f"{name:20} {len(grades)} answers, {workers} workers: {elapsed:6.2f} s, "
        f"{60 * len(grades) / elapsed:8.0f} a minute; {right} right; {methods}",
        flush=True,
    )


def timed(grader: Grader, text: str) -> tuple[Grade, float]:
    """The grade of a text whose gold answer is 42, and the time that grading took."""
    start = time.perf_counter()
    grade = grader.grade(text, Problem("p", "q", "42"))
    return grade, time.perf_counter() - start


if __name__ == "__main__":
    main()
