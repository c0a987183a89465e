import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from mi_lens.cli import main
from mi_lens.common.files import write_jsonl
from mi_lens.common.records import append_record, read_record, read_records, write_record
from mi_lens.common.statistics import holm, mcnemar, paired_power, problems_needed, sign_flip
from mi_lens.evaluation.comparison import Arm, compare, compare_all, settings_that_differ
from mi_lens.evaluation.evaluate import Evaluation, evaluate
from mi_lens.evaluation.result import Result
from mi_lens.interventions.condition import Condition, parse_condition
from mi_lens.interventions.recycle import Recycle
from mi_lens.interventions.sampling import Sampling
from mi_lens.interventions.suppress import Suppress
from mi_lens.models.loading import load
from mi_lens.problems.code_tests import CodeTest, CodeTests
from mi_lens.problems.loading import load_problems
from mi_lens.problems.problem import Problem
from mi_lens.runs.config import EvaluateConfig
from mi_lens.runs.evaluate import run_evaluate
from mi_lens.traces.trace_files import load_traces

SETTING = {"model": "m", "dtype": "float32", "max_new_tokens": 100}


def arm(name, correct, tokens: Any = 50, reasons: Any = "eos", seeds=1, **setting):
    n = len(correct) // seeds
    results = []
    for i, right in enumerate(correct):
        stop = reasons if isinstance(reasons, str) else reasons[i % n]
        count = tokens if isinstance(tokens, int) else tokens[i % n]
        results.append(
            Result(
                str(i % n),
                "s",
                "12"[i % n % 2],
                name,
                i // n,
                f"{name}{i}",
                None,
                bool(right),
                "exact",
                count,
                None,
                stop,
                None,
            )
        )
    return Arm(name, tuple(results), SETTING | setting)


def test_a_comparison_in_full():
    before = arm("before", [1, 0, 0, 0, 1, 1, 0, 0], 60, ["eos", "length"] * 4)
    after = arm("after", [1, 1, 1, 1, 0, 1, 0, 1], [20, 40, 60, 80] * 2)
    comparison = compare(after, before)
    assert (comparison.mended, comparison.broken, comparison.problems) == (4, 1, 8)
    assert comparison.p_value == binomtest(4, 5).pvalue
    assert comparison.accuracy == 6 / 8
    assert comparison.difference.mean == pytest.approx(3 / 8)
    low, high = comparison.difference.low, comparison.difference.high
    assert (low or 1) < 3 / 8 < (high or 0)
    assert comparison.tokens.mean == -10
    assert comparison.split["capped before"].mean == 3 / 4
    assert comparison.split["finished before"].mean == 0
    assert comparison.split["capped before"].n == 4
    assert {"level 1", "level 2"} < comparison.split.keys()
    assert list(comparison.within) == [12, 25, 50, 100]
    assert comparison.within[50] == pytest.approx(3 / 8)  # 0, 1, 5 within 50 tokens; before: none
    assert comparison.within[100] == pytest.approx(3 / 8)
    assert comparison.settings_differ == ()
    assert comparison.needed == problems_needed(3 / 8, 5 / 8)
    assert comparison.power == {c: paired_power(8, 0.05, c) for c in (0.05, 0.1, 0.2)}


def test_settings_that_differ_are_said():
    comparison = compare(
        arm("a", [1, 0], dtype="bfloat16", versions={"torch": "1"}),
        arm("b", [1, 0], versions={"torch": "2"}),
    )
    assert comparison.settings_differ == (
        "dtype: 'bfloat16' against 'float32'",
        "versions.torch: '1' against '2'",
    )
    assert settings_that_differ(SETTING, SETTING) == ()


def test_several_seeds_count_as_one_problem_each():
    before = arm("before", [0, 1, 0, 0] * 3, seeds=3)
    after = arm("after", [1, 1, 0, 0, 1, 1, 0, 1, 1, 1, 0, 0], seeds=3)
    comparison = compare(after, before)
    assert comparison.problems == comparison.difference.n == 4
    assert comparison.difference.mean == pytest.approx((1 + 0 + 0 + 1 / 3) / 4)
    assert comparison.p_value == sign_flip([1.0, 0.0, 0.0, 1 / 3])
    assert before.accuracy().n == 4
    once = compare(arm("after", [1, 1, 0, 0]), arm("before", [0, 1, 0, 0]))
    assert comparison.power == once.power  # seeds are no further problems


def test_only_pairs_are_compared():
    with pytest.raises(ValueError, match="1 are in one only"):
        compare(arm("a", [1, 0, 1]), arm("b", [1, 0]))


def test_holm_over_the_comparisons():
    base = arm("base", [0] * 12)
    arms = [arm(f"a{k}", [1] * k + [0] * (12 - k)) for k in (12, 8, 1)]
    comparisons = compare_all(arms, base)
    assert [comparison.p_value for comparison in comparisons] == [2**-11, 2**-7, 1.0]
    assert [comparison.adjusted for comparison in comparisons] == [3 * 2**-11, 2 * 2**-7, 1.0]


def test_holm_by_its_definition():
    assert holm([]) == []
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]


def test_mcnemar_is_the_binomial_test_of_what_changed():
    before, after = [True] * 3 + [False] * 7, [False] * 3 + [True] * 6 + [False]
    assert mcnemar(before, after) == pytest.approx(binomtest(6, 9).pvalue)
    assert mcnemar([True], [True]) == 1
    with pytest.raises(ValueError, match="1 outcomes before and 2 after"):
        mcnemar([True], [True, False])


def test_sign_flip_of_few_problems_is_the_exact_count():
    # 2 of the 2^6 sign patterns reach the sum of six equal differences.
    assert sign_flip([1.0] * 6, draws=40_000) == pytest.approx(2 / 64, abs=0.004)
    assert sign_flip([1.0, -1.0]) > 0.9


@pytest.mark.parametrize(
    ("n", "gain", "changed"), [(30, 0.1, 0.2), (30, -0.1, 0.3), (90, 0.1, 0.1)]
)
def test_power_by_enumeration(n, gain, changed):
    up = (changed + gain) / (2 * changed)
    total = 0.0
    for pairs in range(1, n + 1):
        for mended in range(pairs + 1):
            if binomtest(mended, pairs).pvalue <= 0.05:
                total += binom.pmf(pairs, n, changed) * binom.pmf(mended, pairs, up)
    assert paired_power(n, gain, changed) == pytest.approx(total, abs=1e-12)


def test_problems_needed_is_where_power_is_reached():
    n = problems_needed(0.1, 0.2)
    assert paired_power(n, 0.1, 0.2) >= 0.8 > paired_power(n - 1, 0.1, 0.2)
    assert paired_power(30, 2.5 / 30, 0.2) < 0.1  # AIME's 30 items, two or three more right
    with pytest.raises(ValueError, match="gain=0: no number"):
        problems_needed(0.0, 0.1)
    with pytest.raises(ValueError, match=r"gain=0.2 with changed=0.1"):
        paired_power(30, 0.2, 0.1)


PROBLEMS = [Problem(f"p{i}", f"What is {i} + 12?", str(i + 12), source="sums") for i in range(4)]
CONDITIONS = [
    Condition(name="baseline"),
    Condition((Suppress(["so", "the"]),), name="quiet"),
    Condition((Recycle(1, ["is", "in"]),), Sampling(0.8), "warm"),
]


def test_every_condition_meets_every_problem(tiny_model, tmp_path):
    evaluation = evaluate(
        tiny_model, PROBLEMS, CONDITIONS, [0, 1], max_new_tokens=8, folder=tmp_path, progress=False
    )
    keys = [(r.problem, r.condition, r.seed) for r in evaluation.results]
    assert keys == [(p.id, c.name, s) for p in PROBLEMS for c in CONDITIONS for s in (0, 1)]
    rows = {row["trace"]: row for row in read_records(tmp_path / "results.jsonl")}
    traces = {trace.id: trace for trace in load_traces(tmp_path / "traces.jsonl")}
    for result in evaluation.results:
        assert rows[result.trace]["correct"] == result.correct
        assert result.tokens == len(traces[result.trace])
        assert (result.seconds or 0) > 0
        assert set(result.thoughts or ()) == {"execution", "reflection", "transition"}
    assert evaluation.setting["dtype"] == "float64"
    assert "versions" in evaluation.setting
    text = evaluation.report()
    assert "4 problems, 8 traces a condition" in text
    assert "a gain of 5 points would be found with probability" in text
    again = evaluate(
        tiny_model, PROBLEMS, CONDITIONS, [0, 1], max_new_tokens=8, folder=tmp_path, progress=False
    )
    assert again == evaluation


def test_a_corrected_gold_answer_is_graded_by(tiny_model, tmp_path):
    (wrong,) = evaluate(
        tiny_model, PROBLEMS[:1], CONDITIONS[:1], max_new_tokens=8, folder=tmp_path, progress=False
    ).results
    (trace,) = load_traces(tmp_path / "traces.jsonl")
    assert not wrong.correct
    said = trace.text.split()[-1]
    # The same question in the same folder, under another name and with another answer.
    other = replace(PROBLEMS[0], id="q0", answer=f"\\text{{{said}}}", source="mended")
    both = [PROBLEMS[0], other]
    evaluation = evaluate(
        tiny_model, both, CONDITIONS[:1], max_new_tokens=8, folder=tmp_path, progress=False
    )
    assert [(r.problem, r.source) for r in evaluation.results] == [("p0", "sums"), ("q0", "mended")]
    golds = [
        t.require_problem("to see its answer").answer
        for t in load_traces(tmp_path / "traces.jsonl")
    ]
    assert golds == [PROBLEMS[0].answer, other.answer]
    assert evaluation.results[0] == wrong


def test_a_trace_without_its_result_is_graded_again(tiny_model, tmp_path):
    def run():
        return evaluate(
            tiny_model, PROBLEMS, CONDITIONS[:2], max_new_tokens=5, folder=tmp_path, progress=False
        )

    evaluation = run()
    path = tmp_path / "results.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    again = run()
    assert [replace(r, seconds=None) for r in again.results] == [
        replace(r, seconds=None) for r in evaluation.results
    ]
    assert sum(r.seconds is None for r in again.results) == 1


def test_what_the_command_wrote_is_read_back(checkpoint, tmp_path):
    rows = [{"id": p.id, "question": p.question, "answer": p.answer} for p in PROBLEMS]
    write_jsonl(tmp_path / "problems.jsonl", rows)
    run = tmp_path / "run"
    config = EvaluateConfig(
        out=run,
        model=str(checkpoint("llama")),
        problems=str(tmp_path / "problems.jsonl"),
        conditions=("baseline", "quiet=Suppress(['so'])"),
        max_new_tokens=6,
        device="cpu",
    )
    evaluation = run_evaluate(config)
    loaded = Evaluation.load(run)
    assert loaded.results == evaluation.results
    assert loaded.setting == evaluation.setting
    assert loaded.comparisons() == evaluation.comparisons()
    assert loaded.report() == evaluation.report()

    # Killed after seven of eight results, while the last was being written.
    for name in ("evaluation.json", "results.parquet"):
        (run / name).unlink()
    written = read_records(run / "results.jsonl")
    results = run / "results.jsonl"
    results.unlink()
    for row in reversed(written):
        append_record(results, row)
    results.write_bytes(results.read_bytes()[:-9])
    before = results.read_bytes()
    loaded = Evaluation.load(run)
    torn = written[0]["problem"]
    assert loaded.names == ["baseline", "quiet"]
    assert sorted(map(str, loaded.results)) == sorted(
        str(result) for result in evaluation.results if result.problem != torn
    )
    assert loaded.setting == {"max_new_tokens": 6}
    assert results.read_bytes() == before

    results.unlink()  # killed before the first result
    nothing = Evaluation.load(run)
    assert nothing.results == ()
    assert ">0</td>" in nothing._repr_html_()
    with pytest.raises(ValueError, match="no problem has been answered under every condition yet"):
        nothing.report()


def test_a_folder_that_holds_no_evaluation_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing: no such folder"):
        Evaluation.load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="holds no run of mi-lens"):
        Evaluation.load(tmp_path)
    write_record(tmp_path / "run.json", {"command": "analyze", "config": {}})
    with pytest.raises(ValueError, match="a run of mi-lens analyze; expected one of mi-lens eval"):
        Evaluation.load(tmp_path)


def test_conditions_need_names_of_their_own(tiny_model):
    for conditions in ([], [Condition(), Condition()]):
        with pytest.raises(ValueError, match="each with a name of its own"):
            evaluate(tiny_model, PROBLEMS, conditions)


@pytest.mark.slow
def test_suppression_costs_the_pocket_reasoner():
    problems = load_problems("pocket", limit=40, seed=3)
    quiet = Condition((Suppress(["Wait", "Hmm", "Hold", "Actually"]),), name="quiet")
    conditions = [Condition(name="baseline"), quiet]
    evaluation = evaluate(
        load("pocket-reasoner"), problems, conditions, batch_size=80, progress=False
    )
    (comparison,) = evaluation.comparisons()
    assert (comparison.difference.high or 0) < -0.2
    assert comparison.adjusted < 0.001
    reflections = {
        name: [(result.thoughts or {})["reflection"] for result in evaluation.arm(name).results]
        for name in ("baseline", "quiet")
    }
    assert np.mean(reflections["baseline"]) > 0.3
    assert max(reflections["quiet"]) <= 1


def test_conditions_as_written():
    assert parse_condition("baseline") == Condition()
    assert parse_condition("baseline").name == "baseline"
    both = parse_condition("both=Suppress(['a']) + Recycle(2, ['So'])")
    assert both.interventions == (Suppress(["a"]), Recycle(2, ["So"]))
    assert both.name == "both"
    assert parse_condition("Suppress(['a'])").interventions == (Suppress(["a"]),)
    for wrong in ("a=Suppress(['a'", "a=3", "Suppress(['a']) - Suppress(['b'])"):
        with pytest.raises(ValueError, match="expected"):
            parse_condition(wrong)


@pytest.mark.slow
def test_the_command_goes_on_after_a_kill(checkpoint, tmp_path, capsys):
    write_jsonl(
        tmp_path / "problems.jsonl",
        [{"id": p.id, "question": p.question, "answer": p.answer} for p in PROBLEMS],
    )
    command = [
        "evaluate",
        "--model",
        str(checkpoint("llama")),
        "--problems",
        str(tmp_path / "problems.jsonl"),
        "--max-new-tokens",
        "12",
        "--batch-size",
        "3",
        "--conditions",
        "baseline",
        "quiet=Suppress(['so'])",
        "--device",
        "cpu",
        "--dtype",
        "float64",
    ]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen(
        [sys.executable, "-m", "mi_lens.cli", *command, "--out", str(killed)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not (killed / "traces.jsonl").exists():
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    for out in (killed, whole):
        main([*command, "--out", str(out)])
        assert "quiet" in capsys.readouterr().out
    tables = [read_record(out, "evaluation.json") for out in (killed, whole)]
    for table in tables:
        del table["results"]  # the checksum of a table that holds seconds
    assert tables[0] == tables[1]
    traces = [sorted((out / "traces.jsonl").read_text().splitlines()) for out in (killed, whole)]
    assert traces[0] == traces[1]


@pytest.mark.slow
@pytest.mark.parametrize("file", ["gsm8k_test", "livecodebench_release_v1_first5"])
def test_real_benchmarks_run_through(shared_data, new_checkpoint, tmp_path, capsys, file):
    """A random model: accuracy 0, everything else real."""
    path = shared_data / "bench" / f"{file}.jsonl"
    model = new_checkpoint("llama", max_position_embeddings=8192)
    main(
        [
            "evaluate",
            "--model",
            str(model),
            "--problems",
            str(path),
            "--limit",
            "3",
            "--out",
            str(tmp_path / "run"),
            "--max-new-tokens",
            "12",
            "--device",
            "cpu",
            "--conditions",
            "baseline",
            "quiet=Suppress(['so'])",
        ]
    )
    assert "3 problems, 3 traces a condition" in capsys.readouterr().out
    rows = read_records(tmp_path / "run" / "results.jsonl")
    assert len(rows) == 6
    assert not any(row["correct"] for row in rows)
    assert {row["graded_by"] for row in rows} == {"no answer"}


def test_a_problem_without_gold_is_refused_before_anything_is_generated(tiny_model, tmp_path):
    with pytest.raises(ValueError, match="problem p has neither a gold answer nor tests"):
        evaluate(
            tiny_model, [Problem("p", "q", " ")], CONDITIONS[:1], folder=tmp_path, max_new_tokens=2
        )
    assert list(tmp_path.iterdir()) == []


def test_programs_that_cannot_run_are_refused_before_anything_is_generated(
    tiny_model, tmp_path, monkeypatch
):
    def nothing_works():
        raise RuntimeError("no sandbox runs here")

    monkeypatch.setattr("mi_lens.evaluation.evaluate.isolation", nothing_works)
    problem = Problem("p", "Add.", "", tests=CodeTests((CodeTest("1\n", "2\n"),)))
    with pytest.raises(RuntimeError, match="no sandbox runs here"):
        evaluate(tiny_model, [problem], CONDITIONS[:1], folder=tmp_path, max_new_tokens=2)
    assert list(tmp_path.iterdir()) == []
    evaluate(tiny_model, PROBLEMS[:1], CONDITIONS[:1], max_new_tokens=2, progress=False)
