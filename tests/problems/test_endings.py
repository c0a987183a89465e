from collections.abc import Callable
from dataclasses import replace

import pytest

from mi_lens import Problem, load_problems
from mi_lens.problems.arithmetic import pocket_problems
from mi_lens.problems.endings import ENDINGS, answer_text, endings_of, in_words
from tests.processes import result_of

PROBLEM = Problem("p", "What is 7 * 10?", "70", solution="7 * 10 = 70. The answer is 70.")


def test_every_ending_of_a_text_that_ends_with_its_answer() -> None:
    begin = "7 * 10 = 70. The answer is "
    assert endings_of(PROBLEM, "solution_last") == {
        "as_written": f"{begin}70.",
        "bare": f"{begin}70",
        "period": f"{begin}70.",
        "blank_line": f"{begin}70.\n\n",
        "dollar": f"{begin}$70$",
        "bracket": rf"{begin}\[70\]",
        "boxed": rf"{begin}\boxed{{70}}",
        "in_words": f"{begin}seventy",
        "paraphrase": "7 * 10 = 70. So the result is 70.",
    }
    answers = endings_of(PROBLEM, "answer_last")
    assert (answers["period"], answers["in_words"]) == ("70.", "seventy")


@pytest.mark.parametrize(
    ("solution", "begin"),
    [
        (r"Hence $n=\boxed{70}.$", r"Hence $n=\boxed{70}.$ The answer is "),
        ("It is 170.", "It is 170. The answer is "),
        ("It is -70", "It is -70 The answer is "),
        ("It is 1.70", "It is 1.70 The answer is "),
        ("It is 70 \n", "It is "),
        ("70", ""),
    ],
)
def test_a_text_that_does_not_end_with_its_answer_gets_a_sentence(solution, begin) -> None:
    assert answer_text(replace(PROBLEM, solution=solution), "solution_last", "bare") == f"{begin}70"
    written = answer_text(replace(PROBLEM, solution=solution), "solution_last", "as_written")
    assert written == solution


def test_real_solutions_end_alike_under_one_ending(shared_data) -> None:
    problems = load_problems(str(shared_data / "bench" / "math_train12k_part.jsonl"), limit=None)
    asked = [problem for problem in problems if problem.solution and problem.answer]
    assert len(asked) > 4000
    for problem in asked:
        solution = problem.solution or ""
        for ending, text in endings_of(problem, "solution_last").items():
            assert text.startswith(solution.rstrip()[:20])
            closing = {"period": ".", "dollar": "$", "bracket": "]", "boxed": "}"}
            assert text.endswith(closing.get(ending, ""))


def test_the_pocket_solution_ends_as_a_sentence() -> None:
    for problem in pocket_problems(50):
        texts = endings_of(problem, "solution_last")
        assert texts["as_written"] == texts["period"]
        assert set(texts) == set(ENDINGS)


def test_words() -> None:
    assert in_words("123") == "one hundred and twenty-three"
    assert in_words("-5") == "minus five"
    half = replace(PROBLEM, answer="1/2", solution="It is 1/2.")
    assert "in_words" not in endings_of(half, "solution_last")
    with pytest.raises(ValueError, match="'1/2' is no whole number"):
        answer_text(half, "solution_last", "in_words")


def refusal(call: Callable[[], object]) -> str:
    try:
        call()
    except ValueError as error:
        return str(error)
    return "not refused"


def refusals() -> list[str]:
    bare = replace(PROBLEM, solution=None)
    return [
        refusal(lambda: answer_text(PROBLEM, "solution_last", "full stop")),  # type: ignore
        refusal(lambda: answer_text(PROBLEM, "answer", "bare")),  # type: ignore
        refusal(lambda: answer_text(bare, "solution_last", "bare")),
        refusal(lambda: answer_text(replace(PROBLEM, answer=""), "solution_last", "bare")),
    ]


def test_bad_input() -> None:
    expected = ("ending='full stop'", "site='answer'", "has no solution", "has no answer that")
    for message, part in zip(result_of(refusals), expected, strict=True):
        assert part in message
