import json
import multiprocessing
import os
import string
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_lens.problems.answers import boxed_answer, code_block, is_correct, stated_answer
from mi_lens.problems.code_tests import CodeTest, CodeTests
from mi_lens.problems.grading import grader as grader_module
from mi_lens.problems.grading.grader import Grade, Grader, grade, grade_all
from mi_lens.problems.grading.math_verify import LONGEST, Verifier
from mi_lens.problems.grading.sandbox import Limits
from mi_lens.problems.loading import load_problems
from mi_lens.problems.problem import Problem

HOSTILE = {
    "huge powers": r"9^{9^{9^{9^{9}}}}",
    "huge factorials": "99999!!!!",
    "unbalanced braces": r"\frac{1}{{{2}",
    "brackets": "(" * 1_000_000,
    "braces": "{" * 500_000 + "1" + "}" * 500_000,
    "nested roots": r"\sqrt{" * 300 + "2" + "}" * 300,
    "nested fractions": r"\frac{1}{1+" * 150 + "1" + "}" * 150,
    "endless digits": "1" * 1_000_000 + ".0",
    "a long sum": "+".join(map(str, range(400))),
    "a hard integral": r"\int_0^\infty \frac{\sin(x^x)}{\ln(x+e^{x^2})} dx",
    "a matrix": r"\begin{pmatrix}" + "&".join("x^{99}" for _ in range(100)) + r"\end{pmatrix}",
    "NUL and surrogate": "1\0\ud800",
    "code": "__import__('os').system('touch hostile')",
}


@pytest.fixture(scope="module")
def grader():
    with Grader(seconds=2.0) as grader:
        yield grader


def maths(gold: str) -> Problem:
    return Problem("p", "q", gold, source="math")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{1} and \boxed{ 2 }", "2"),
        (r"\boxed{\frac{a}{b}}.", r"\frac{a}{b}"),
        (r"\boxed{\left\{ 1, 2 \right.} }", r"\left\{ 1, 2 \right."),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{a \\{b}}", r"a \\{b}"),
        (r"\boxed{3} but \boxed{1", None),
        ("no box", None),
        ("", None),
        (r"\boxed{}", ""),
    ],
)
def test_boxed_answer(text, answer):
    assert boxed_answer(text) == answer
    assert is_correct(text, "") == (answer == "")


@given(st.text(alphabet=string.ascii_letters + "{}\\ ^_", max_size=30))
def test_a_box_gives_back_what_was_put_in(content):
    text = f"so \\boxed{{{content}}}"
    depth = 0
    escaped = False
    for character in content:
        if not escaped and character in "{}":
            depth += 1 if character == "{" else -1
        escaped = character == "\\" and not escaped
        if depth < 0:
            return
    if depth == 0 and not escaped and "\\boxed{" not in content:
        assert boxed_answer(text) == content.strip()


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 18 dollars.", "18 dollars."),
        ("**Answer:** 7", "7"),
        ("answer is 3\nThe final answer is: $x = 4$", "$x = 4$"),
        ("so 5 + 5 = 10\n#### 10", "10"),
        ("<think>the answer is 3</think>I do not know 3", None),
        ("it is 18", None),
        ("answers vary: 3", None),
    ],
)
def test_stated_answer(text, answer):
    assert stated_answer(text) == answer


def test_code_block():
    fenced = "text\n```python\nprint(1)\n```\nthen\n```\nprint(2)\n  x = '```'\n```\nend"
    assert code_block(fenced) == "print(2)\n  x = '```'\n"
    assert code_block("<think>\n```python\nprint(1)\n```\n</think>no code") is None
    assert code_block("```python\nprint(1)") is None
    assert code_block("print(1)") is None


@pytest.mark.parametrize(
    ("gold", "text", "correct", "method"),
    [
        ("70", r"\boxed{70}", True, "exact"),
        ("70", r"\boxed{070}", True, "integer"),
        ("70", r"\boxed{+70}", True, "integer"),
        ("0", r"\boxed{-0}", True, "integer"),
        ("7", r"\boxed{-7}", False, "integer"),
        ("70", r"\boxed{" + "7" * 100_000 + "}", False, "integer"),
        ("70", r"\boxed{70.0}", True, "math-verify"),
        ("70", r"\boxed{b = 70}", True, "math-verify"),
        ("70", r"<think>\boxed{70}</think> \boxed{71}", False, "integer"),
        (r"\frac{1}{2}", r"\boxed{0.5}", True, "math-verify"),
        (r"\frac{1}{2}", r"\boxed{\dfrac12}", True, "math-verify"),
        (r"\frac{1}{2}", r"\boxed{\frac{1}{3}}", False, "math-verify"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"\boxed{(3,\pi/2)}", True, "math-verify"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"\boxed{(\pi/2,3)}", False, "math-verify"),
        (r"34,\!650", r"\boxed{34650}", True, "math-verify"),
        ("x^2+2x+1", r"\boxed{(x+1)^2}", True, "math-verify"),
        (r"\text{Evelyn}", r"\boxed{Evelyn}", True, "math-verify"),
        (r"\text{Evelyn}", r"\boxed{Carla}", False, "math-verify"),
        ("1000", r"\boxed{1,000}", True, "math-verify"),
        ("1000", r"\boxed{1_000}", False, "math-verify"),
        ("1000", "The answer is 1_000.", False, "math-verify"),
        ("25", r"\boxed{2_5}", False, "math-verify"),
        ("25", r"\boxed{٢٥}", False, "math-verify"),
        ("25", r"\boxed{２５.0}", False, "math-verify"),
        ("25", "The answer is ٢٥.", False, "math-verify"),
        ("0.5", r"\boxed{\frac{١}{٢}}", False, "math-verify"),
        ("18", "The answer is $18$.", True, "math-verify"),
        ("18", "The answer is 18 dollars.", True, "math-verify"),
        ("18", "The answer is 81 dollars.", False, "math-verify"),
        ("18", "6 * 3 = 18\n#### 18", True, "exact"),
        ("18", "so it must be 18", False, "no answer"),
        ("18", "thinking about 18", False, "no answer"),
        ("18", "", False, "no answer"),
    ],
)
def test_mathematics(grader, gold, text, correct, method):
    graded = grader.grade(text, maths(gold))
    assert (graded.correct, graded.method) == (correct, method)
    assert graded.reason


def test_the_pocket_task_is_graded_by_text():
    problem = load_problems("pocket", limit=1)[0]
    with Grader() as grader:
        assert grader.grade(f"\\boxed{{{problem.answer}}}", problem).correct
        assert not grader.grade(f"\\boxed{{0{problem.answer}}}", problem).correct
        assert not grader.grade(f"The answer is {problem.answer}", problem).correct
        assert grader._verifiers[0]._child is None


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_answers(grader, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in (f"\\boxed{{{HOSTILE[name]}}}", f"The answer is {HOSTILE[name]}"):
        started = time.monotonic()
        assert not grader.grade(text, maths("42")).correct
        assert time.monotonic() - started < 4
    assert grader.grade(r"\boxed{\frac{84}{2}}", maths("42")).correct
    assert not list(tmp_path.iterdir())


@settings(deadline=None)
@given(st.text(alphabet="0123456789x+-*/^_{}()[]\\ ,.!%$&|<>=fracsqrtpin", max_size=40))
def test_any_answer_gets_a_grade(shared_grader, text):
    graded = shared_grader.grade(f"\\boxed{{{text}}}", maths("-123456789/1000"))
    assert not graded.correct


@pytest.fixture(scope="module")
def shared_grader():
    with Grader(seconds=1.0) as grader:
        yield grader


def test_a_late_child_is_killed_and_replaced():
    verifier = Verifier(seconds=0.5)
    try:
        assert verifier.verify("$1$", "1").correct
        first = verifier._child
        assert first is not None
        os.kill(first.pid, 19)  # SIGSTOP: it can neither answer nor notice
        started = time.monotonic()
        verdict = verifier.verify("$1$", "1")
        assert (verdict.correct, verdict.reason) == (
            False,
            "Math-Verify took over 0.5 s and was killed",
        )
        assert time.monotonic() - started < 2
        assert first.poll() is not None
        assert verifier.verify("$2/2$", "1").correct
        second = verifier._child
        assert second is not None
        second.kill()
        assert verifier.verify("$1$", "1").reason == "Math-Verify crashed or ran out of memory"
        assert verifier.verify("$1$", "1").correct
    finally:
        verifier.close()


def test_an_interrupt_leaves_no_reply_for_the_next_question(monkeypatch):
    verifier = Verifier()
    try:
        assert verifier.verify("$1$", "1").correct
        with monkeypatch.context() as patched:
            patched.setattr(Verifier, "_line", interrupted)
            with pytest.raises(KeyboardInterrupt):
                verifier.verify("$1$", "1")
        assert not verifier.verify("$2$", "1").correct
    finally:
        verifier.close()


def interrupted(*_):
    raise KeyboardInterrupt


def test_a_verifier_that_cannot_start():
    verifier = Verifier(memory=1 << 20)
    with pytest.raises(RuntimeError, match="did not start with memory=1048576"):
        verifier.verify("$1$", "1")
    assert verifier._child is None
    with pytest.raises(ValueError, match=r"seconds=0\.0: expected a positive time"):
        Verifier(seconds=0.0)


def test_what_is_too_long_is_not_read():
    verdict = Verifier().verify("1" * (LONGEST + 1), "1")
    assert (verdict.correct, verdict.reason) == (False, "the answer has 2001 characters, over 2000")


def test_threads_share_a_grader(grader):
    grades = {}

    def grade_number(number):
        grades[number] = grader.grade(f"\\boxed{{{number}.0}}", maths(str(number % 7)))

    threads = [threading.Thread(target=grade_number, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [grades[n].correct for n in range(20)] == [n == n % 7 for n in range(20)]


def graded_in_a_fork(pipe):
    pipe.send(grade(r"\boxed{1.0}", maths("1")).correct)
    os._exit(0)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_fork_gets_a_grader_of_its_own():
    assert grade(r"\boxed{2.0}", maths("2")).correct
    here, there = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=graded_in_a_fork, args=(there,))
    child.start()
    assert here.poll(60)
    assert here.recv()
    child.join()
    assert not grade(r"\boxed{3.0}", maths("2")).correct


def test_grade_all_keeps_the_order():
    texts = [f"\\boxed{{{n}.0}}" for n in range(30)]
    problems = [maths(str(n if n % 3 else n + 1)) for n in range(30)]
    assert [g.correct for g in grade_all(texts, problems)] == [n % 3 != 0 for n in range(30)]
    assert grade_all([], []) == []
    with pytest.raises(ValueError, match="1 texts and 0 problems"):
        grade_all(["x"], [])
    with pytest.raises(ValueError, match="workers=0: expected at least 1"):
        Grader(0)
    with pytest.raises(ValueError, match="problem p has neither a gold answer nor tests"):
        grade("x", maths(" "))


def test_real_answers_equal_themselves(shared_data, grader):
    problems = load_problems(shared_data / "bench" / "math500_test.jsonl")
    verdicts = [grader._verifiers[0].verify(f"\\boxed{{{p.answer}}}", p.answer) for p in problems]
    assert all(v.correct for v in verdicts)
    others = [p.answer for p in (*problems[7:], *problems[:7])]
    chance = [
        (p.answer, other)
        for p, other in zip(problems, others, strict=True)
        if grader._verifiers[0].verify(f"\\boxed{{{other}}}", p.answer).correct
    ]
    assert all(same_up_to_assignment(*pair) for pair in chance), chance


def same_up_to_assignment(gold, other):
    return gold.split("=")[-1].strip() == other.split("=")[-1].strip()


# Of the 39 real AIME25 traces none is graded otherwise than by whoever published them: all are
# finished, all have a box, and 38 boxes hold plain integers.
def test_real_aime25_traces(shared_data):
    paths = sorted((shared_data / "traces").glob("aime25_*.jsonl"))
    rows = [json.loads(line) for path in paths for line in path.read_text("utf-8").splitlines()]
    problems = [Problem(r["id"], r["question"], r["gold"], source="aime25") for r in rows]
    grades = grade_all([r["response"] for r in rows], problems)
    disagreements = {
        r["id"]: (r["gold"], r["is_correct"], g)
        for r, g in zip(rows, grades, strict=True)
        if g.correct != r["is_correct"] or g.extracted != r["extracted"]
    }
    assert disagreements == {}
    assert len(rows) == 39
    verified = [
        (r["id"], g) for r, g in zip(rows, grades, strict=True) if g.method == "math-verify"
    ]
    assert verified == [
        (
            "aime25/QwQ-32B/12",
            Grade(False, r"\dfrac{887}{3}", "math-verify", "different by Math-Verify"),
        )
    ]


SOLUTIONS = {
    "1873_A": """
for _ in range(int(input())):
    moved = sum(x != y for x, y in zip(input().strip(), "abc"))
    print("YES" if moved <= 2 else "NO")
""",
    "1873_B": """
for _ in range(int(input())):
    input()
    digits = sorted(map(int, input().split()))
    digits[0] += 1
    print(math.prod(digits))
""",
    "1873_D": """
for _ in range(int(input())):
    n, k = map(int, input().split())
    strip, clean, wipes = input(), 0, 0
    for i in range(n):
        if strip[i] == "B" and i >= clean:
            clean, wipes = i + k, wipes + 1
    print(wipes)
""",
    "1883_B": """
for _ in range(int(input())):
    n, k = map(int, input().split())
    odd = sum(count % 2 for count in Counter(input().strip()).values())
    print("YES" if odd - 1 <= k else "NO")
""",
    "1883_C": """
for _ in range(int(input())):
    n, k = map(int, input().split())
    a = list(map(int, input().split()))
    best = min(-x % k for x in a)
    if k == 4:
        best = min(best, max(0, 2 - sum(x % 2 == 0 for x in a)))
    print(best)
""",
}
MUTANTS = {
    "1873_A": [("<= 2", "<= 1"), ('"NO"', '"no!"'), ("int(input())", "1")],
    "1873_B": [("digits[0]", "digits[-1]"), ("+= 1", "+= 2"), ("prod", "fsum")],
    "1873_D": [("i + k", "i + k + 1"), ("i >= clean", "i > clean"), ("print(wipes)", "print(k)")],
    "1883_B": [("odd - 1", "odd"), ("% 2", "% 3"), ("<= k", "< k"), ("odd - 1 <= k", "True")],
    "1883_C": [("k == 4", "k == 5"), ("-x % k", "x % k"), ("2 - sum", "1 - sum")],
}


def test_reference_programs_pass_and_their_mutants_fail(shared_data):
    path = shared_data / "bench" / "livecodebench_release_v1_first5.jsonl"
    problems = load_problems(path)
    assert {p.id for p in problems} == set(SOLUTIONS) == set(MUTANTS)
    texts, graded, expected = [], [], []
    for problem in problems:
        reference = SOLUTIONS[problem.id]
        for old, new in [("", ""), *MUTANTS[problem.id]]:
            assert old in reference
            texts.append(f"<think>...</think>\n```python{reference.replace(old, new)}```")
            graded.append(problem)
            expected.append(not old)
    grades = grade_all(texts, graded)
    for text, verdict, correct in zip(texts, grades, expected, strict=True):
        assert verdict.correct == correct, (text, verdict)
        assert verdict.method == "tests"


def code(*tests, function=None) -> Problem:
    code_tests = CodeTests(tuple(CodeTest(*test) for test in tests), function=function)
    return Problem("c", "q", "", source="livecodebench", tests=code_tests)


def test_programs_are_told_why_they_fail():
    problem = code(("1\n", "2\n"), ("2\n", "3\n"))
    with Grader(limits=Limits(seconds=5.0, cpu_seconds=2, processes=40)) as grader:

        def reason(program):
            graded = grader.grade(f"```python\n{program}\n```", problem)
            assert not graded.correct
            assert graded.extracted == program + "\n"
            return graded.reason

        assert reason("print(2)") == "test 2 of 2: wrong output"
        assert reason("1/0") == "test 1 of 2: ZeroDivisionError: division by zero"
        assert reason("raise SystemExit(3)") == "test 1 of 2: ended with code 3"
        assert grader.grade("print(2)", problem) == Grade(
            False, None, "no answer", "no block of code after the thinking"
        )
        assert grader.grade("```\nprint(int(input()) + 1.0)\n```", problem).correct


def test_functions_are_called_and_compared():
    problem = code(("[1, 2]\n3", "[4, 5]"), ("[]\n1", "[]"), function="add")
    good = "class Solution:\n    def add(self, a: List[int], n: int):\n        RETURN"
    for body, correct in [
        ("return [x + n for x in a]", True),
        ("print('noise'); return tuple(x + n for x in a)", True),
        ("return a", False),
        ("return {x + n for x in a}", False),
        ("sys.exit(0)", False),
        ("print([x + n for x in a])", False),
    ]:
        text = "```python\n" + good.replace("RETURN", body) + "\n```"
        assert grade(text, problem).correct == correct, body
    assert grade("```python\ndef add(a, n): return [x + n for x in a]\n```", problem).correct


# Each is written in the place of a returned value.
REPLIES = {
    "nested brackets": "b'[' * 100_000",
    "nested objects": "b'{\"a\":' * 100_000",
    "balanced brackets": "b'[' * 900 + b']' * 900",
    "five thousand digits": "b'1' * 5_000",
    "no UTF-8": "b'\\xff\\xfe'",
    "NUL": "b'\\0'",
    "a megabyte": "b'[1,' * (1 << 19)",
    "infinity": "b'1e999999'",
    "an underscore": "b'2_5'",
    "Arabic digits": "'٢٥'.encode()",
    "nothing": "b''",
}


@pytest.mark.parametrize("name", REPLIES)
def test_hostile_replies_are_wrong(name):
    program = f"""
import os
def add(a):
    for number in range(3, 64):
        try:
            os.write(number, {REPLIES[name]})
        except OSError:
            pass
    os._exit(0)
"""
    grade_of = grade(f"```python{program}```", code(("1", "25"), function="add"))
    assert (grade_of.correct, grade_of.reason) == (False, "test 1 of 1: wrong output")


def test_a_program_without_isolation_is_marked(monkeypatch):
    monkeypatch.setattr(grader_module, "isolation", lambda: "limits")
    graded = grade("```\nprint(1)\n```", code(("", "1")))
    assert (graded.correct, graded.reason) == (True, "passed all 1 tests; run without isolation")


def test_no_module_of_ours_unpickles():
    for path in Path(__file__).parents[3].glob("mi_lens/**/*.py"):
        assert "import pickle\n" not in path.read_text(encoding="utf-8"), path
