"""What stands on the page, and what it is made of."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from mi_lens.cli import main
from mi_lens.common.files import write_jsonl
from mi_lens.common.records import DamagedError, write_record
from mi_lens.report.findings import findings
from mi_lens.report.loading import read_runs
from mi_lens.report.packing import unpacked
from mi_lens.report.page import write_report
from mi_lens.report.rendering import embedded
from mi_lens.report.traces import blocks
from mi_lens.runs.config import EvaluateConfig, GenerateConfig
from mi_lens.runs.evaluate import run_evaluate
from mi_lens.runs.generate import run_generate
from mi_lens.runs.sweep import run_sweep
from mi_lens.runs.sweep_spec import Spec
from mi_lens.traces.thoughts import split_thoughts
from tests.report.conftest import THOUGHTS, a_trace

HOOKS = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
CONDITIONS = ("baseline", "quiet=Suppress(['so'])")


@pytest.fixture(scope="module")
def analysed(build, tmp_path_factory):
    """An analysis of four traces at two layers, in its folder."""
    folder = tmp_path_factory.mktemp("analysed") / "run"
    return build(folder, [THOUGHTS * n for n in (2, 1, 3, 1)], HOOKS)


@pytest.fixture(scope="module")
def settings(checkpoint, tmp_path_factory):
    """What commands are asked with: three problems and a random Llama."""
    problems = tmp_path_factory.mktemp("problems") / "problems.jsonl"
    rows = [{"id": f"p{i}", "question": f"{i} + 2?", "answer": str(i + 2)} for i in range(3)]
    write_jsonl(problems, rows)
    return {
        "model": str(checkpoint("llama")),
        "problems": str(problems),
        "max_new_tokens": 8,
        "device": "cpu",
    }


def data_of(page):
    """The JSON that a page holds: what it lists, and its traces."""
    text = page.read_text(encoding="utf-8")
    pattern = r'<script type="application/json" id="(\S+)">(.*?)</script>'
    held = {name: json.loads(value) for name, value in re.findall(pattern, text)}
    return held.pop("data"), list(held.values())


def cells_of(page, caption):
    """The rows of a table as text."""
    text = page.read_text(encoding="utf-8")
    body = text.split(f"<figcaption>{caption}")[1].split("<tbody>")[1].split("</tbody>")[0]
    return [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in body.split("</tr>")[:-1]]


def rows_of(page, caption):
    """The rows of a table, the folded ones too."""
    text = page.read_text(encoding="utf-8")
    figure = text.split(f"<figcaption>{caption}")[1].split("</figure>")[0]
    bodies = re.findall(r"<tbody>(.*?)</tbody>", figure, re.DOTALL)
    rows = [row for body in bodies for row in body.split("</tr>")[:-1]]
    return [
        [re.sub(r"<.*?>", "", cell) for cell in re.findall(r"<td.*?</td>", row)] for row in rows
    ]


def test_the_page_holds_what_was_found(analysed, tmp_path):
    page = write_report([analysed.config.out], tmp_path / "page.html", traces=3)
    data, traces = data_of(page)
    assert [t["id"] for t in traces] == [t.id for t in analysed.traces[:3]]
    assert "the first 3 of 4 traces" in page.read_text()
    for shown, trace, strings in zip(traces, analysed.traces, analysed.token_strings, strict=False):
        assert shown["tokens"] == strings
        for layer, name in zip(shown["hooks"], HOOKS, strict=True):
            mi = analysed.mi(trace, name)
            np.testing.assert_allclose(unpacked(layer["mi"]), mi, rtol=1e-6)
            assert layer["peaks"] == analysed.peaks(trace, name)
            assert layer["specific"]["peaks"] == analysed.specific_peaks(trace, name)
            assert layer["edges"] == sorted(layer["edges"])
            assert len(layer["edges"]) == data["shades"] - 1
        entropy = analysed.measurement(trace, HOOKS[0]).covariates["entropy"]
        np.testing.assert_allclose(unpacked(shown["entropy"]), entropy, rtol=1e-6, atol=1e-9)
    lifted = {
        name: [row.word for row in table.rows if row.lift_low is not None and row.lift_low > 1]
        for name, table in analysed.tokens.items()
    }
    assert data["runs"][traces[0]["run"]]["words"] == lifted
    rows = cells_of(page, "Findings by model and layer")
    assert [row[1] for row in rows] == list(HOOKS)
    assert rows[1][6] == f"{analysed.summary(HOOKS[1])['mi']:.4f}"
    assert len(cells_of(page, "Peak statistics by trace")) == 4


def test_specific_peaks_are_set_against_those_of_other_answers(analysed, tmp_path):
    page = write_report([analysed.config.out], tmp_path / "page.html")
    mismatch = analysed.controls(HOOKS[1]).mismatch
    assert mismatch.excess.mean == pytest.approx(mismatch.peaks - 0.25)
    assert (
        f"There are {mismatch.peaks:.2f} specific peaks per trace, of which {mismatch.shared:.2f} "
        "are also raw peaks. Another problem's answer in the place of the gold one has 0.25 at the "
        f"same states, so {mismatch.excess.in_form('.2f')} are beyond chance."
    ) in page.read_text(encoding="utf-8").replace("&#39;", "'")
    rows = cells_of(page, "Findings by model and layer")
    assert [row[10] for row in rows] == ["0.25"] * len(HOOKS)
    assert "of another answer" in findings({"one": analysed})


def test_figures_are_on_the_page_and_saved_where_asked(analysed, tmp_path):
    folder = analysed.config.out
    page = write_report([folder, folder], tmp_path / "page.html", tmp_path / "figures")
    assert page.read_text().count("<svg") == 5
    first, second = (run.name for run in read_runs([folder, folder]))
    assert first != second
    stems = {path.name.split("_")[0] for path in (tmp_path / "figures").iterdir()}
    assert {stem.split(".")[0] for stem in stems} == {
        "comparison",
        *(name.replace(" (", "-").replace(") ", "-") for name in (first, second)),
    }
    numbers = json.loads(next((tmp_path / "figures").glob("*-1_trajectories.json")).read_text())
    assert numbers["curves"][0]["mi"] == analysed.mi(analysed.traces[0], HOOKS[-1])
    assert write_report([folder], tmp_path / "alone" / "page.html").parent.name == "alone"
    assert [path.name for path in (tmp_path / "alone").iterdir()] == ["page.html"]


def test_nothing_is_fetched_and_markup_is_text(build, tmp_path):
    hostile = "</script><script>alert('x')</script> & {{ 7 * 7 }} $x_1$ \u2028"
    build(tmp_path / "run", [hostile + THOUGHTS], HOOKS[:1], questions=[hostile])
    text = write_report([tmp_path / "run"], tmp_path / "page.html").read_text(encoding="utf-8")
    assert (
        "alert('x')" in json.loads(re.findall(r'id="trace-0">(.*?)</script>', text)[0])["question"]
    )
    assert "<script>alert" not in text
    assert "\u2028" not in text
    assert text.count("<script") == text.count("</script>") == 3
    assert not re.search(r"(src|href)=\"(?!data:|#)", text)
    assert not re.search(r"<[^>]* style=", text)  # the policy would drop it
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; script-src 'sha256-")


@pytest.mark.parametrize(
    "text", ["</script>", "<!-- <script>", "]]>", "&amp;", "\u2028\u2029", "\ud800", "\x00 é 😀"]
)
def test_embedded_json_is_read_back_and_closes_nothing(text):
    shown = embedded({"text": [text]})
    assert json.loads(shown) == {"text": [text]}
    assert shown.isascii()
    assert not set("<>&") & set(shown)


def test_blocks_cover_a_trace_and_begin_with_its_thoughts(tokenizer):
    text = "First words.\n\n" + THOUGHTS + "So it is 79.</think>\n\nThe answer is 79."
    trace = a_trace(tokenizer, text, "?")
    parts = blocks(tokenizer, trace)
    thoughts = split_thoughts(tokenizer, trace)
    assert [(s, k) for s, k in parts if k] == [(t.start, t.thought_class) for t in thoughts]
    assert parts[0] == [0, None]
    assert parts[-1][1] is None
    starts = [start for start, _ in parts]
    assert starts == sorted(set(starts))
    strings = trace.token_strings(tokenizer)
    for start, kind in parts[1:]:
        assert "\n\n" in strings[start - 1] or (kind is None and strings[start] == "</think>")


def test_what_is_no_run_is_named(analysed, tmp_path):
    folder = analysed.config.out
    page = tmp_path / "page.html"
    for wrong, message in (
        (tmp_path / "nothing", "nothing: no such folder; give one that mi-lens generate"),
        (tmp_path, "holds no run of mi-lens .*; give its --out"),
        (folder.parent, f"give the run folders inside it: {re.escape(str(folder))}"),
    ):
        with pytest.raises(FileNotFoundError, match=message):
            write_report([wrong], page)
    write_record(tmp_path / "run.json", {"command": "sing", "config": {}})
    with pytest.raises(ValueError, match="names the command 'sing'; expected one of"):
        write_report([tmp_path], page)
    with pytest.raises(ValueError, match="no folders to report on"):
        write_report([], page)
    with pytest.raises(ValueError, match="traces=-1: expected"):
        write_report([folder], page, traces=-1)
    assert not page.exists()


@pytest.mark.parametrize("missing", ["words", "readings", "traces"])
def test_an_unfinished_analysis_is_shown_as_far_as_it_is(analysed, tmp_path, missing):
    folder = tmp_path / "run"
    shutil.copytree(analysed.config.out, folder)
    (folder / "thinking_tokens.json").unlink()
    if missing != "words":
        (folder / "readings.jsonl").unlink()
    if missing == "traces":
        (folder / "traces.jsonl").unlink()
    page = write_report([folder], tmp_path / "page.html")
    text = page.read_text()
    assert "(analyze) is not finished." in text
    count = 0 if missing == "traces" else 4
    assert f"{count} of 100 traces, {4 if missing == 'words' else 0} of them measured" in text
    assert ("Findings by model" in text) == (missing == "words")
    assert "Words at peaks" not in text
    assert len(data_of(page)[1]) == count


def test_generated_traces(settings, tmp_path):
    run_generate(GenerateConfig(out=tmp_path / "run", **settings))
    page = write_report([tmp_path / "run"], tmp_path / "page.html", traces=2)
    _, traces = data_of(page)
    assert len(traces) == 2
    assert traces[0]["hooks"] == []
    assert traces[0]["correct"] is False
    assert "is not finished" not in page.read_text()
    path = tmp_path / "run" / "traces.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DamagedError, match=r"traces\.jsonl: lacks 1 of 3 traces"):
        write_report([tmp_path / "run"], page)
    (tmp_path / "run" / "generated.json").unlink()  # as if it had been killed
    assert "2 of 3 traces" in write_report([tmp_path / "run"], page).read_text()


def test_an_evaluation(settings, tmp_path):
    config = EvaluateConfig(
        out=tmp_path / "run", conditions=CONDITIONS, seeds=(0, 1), temperature=1.0, **settings
    )
    evaluation = run_evaluate(config)
    (run,) = read_runs([tmp_path / "run"])
    assert run.evaluation is not None
    assert sorted(map(str, run.evaluation.results)) == sorted(map(str, evaluation.results))
    assert run.evaluation.comparisons() == evaluation.comparisons()
    page = write_report([tmp_path / "run"], tmp_path / "page.html")
    (comparison,) = evaluation.comparisons()
    base, quiet = rows_of(page, "Conditions against baseline")
    assert (base[0], quiet[0]) == ("baseline", "quiet")
    assert quiet[4:9] == [
        comparison.verdict,
        str(comparison.mended),
        str(comparison.broken),
        f"{comparison.p_value:.2g}",
        f"{comparison.adjusted:.2g}",
    ]
    assert len(rows_of(page, "Results by problem")) == 3
    assert len(rows_of(page, "The difference by part")) == len(comparison.split) + len(
        comparison.within
    )
    shown = [(t["question"], t["condition"], t["seed"]) for t in data_of(page)[1]]
    assert len(shown) == 12
    assert [c for _, c, _ in shown[:4]] == ["baseline"] * 2 + ["quiet"] * 2
    # Not finished: only the problems that are whole.
    for name in ("evaluation.json", "results.parquet"):
        (tmp_path / "run" / name).unlink()
    results = tmp_path / "run" / "results.jsonl"
    results.write_bytes(results.read_bytes()[:-5])
    text = write_report([tmp_path / "run"], page).read_text()
    assert "12 of 12 traces. The comparison covers the problems that every condition" in text
    assert len(rows_of(page, "Results by problem")) == 2


def test_a_sweep(settings, tmp_path):
    spec = Spec(
        conditions=CONDITIONS,
        models=(settings["model"],),
        problems=settings["problems"],
        max_new_tokens=6,
        unit=2,
        device="cpu",
    )
    (evaluation,) = run_sweep(spec, tmp_path / "sweep").values()
    page = write_report([tmp_path / "sweep"], tmp_path / "page.html")
    assert len(rows_of(page, "Results by problem")) == 3
    assert rows_of(page, "Conditions against baseline")[1][0] == evaluation.names[1]
    assert len(data_of(page)[1]) == 6
    last = sorted((tmp_path / "sweep" / "units").iterdir())[-1]
    for path in last.iterdir():
        path.unlink()
    text = write_report([tmp_path / "sweep"], page).read_text()
    assert "(sweep) is not finished." in text
    assert "1 of 2 units done" in text
    assert len(rows_of(page, "Results by problem")) == 2


def test_a_sweep_over_layers_shows_its_curves(settings, tmp_path):
    spec = Spec(
        conditions=("baseline", "rr{layer}=Recycle({layer}, ['is'])"),
        grid={"layer": (0, 1, 2)},
        models=(settings["model"],),
        problems=settings["problems"],
        max_new_tokens=6,
        device="cpu",
    )
    run_sweep(spec, tmp_path / "sweep")
    text = write_report([tmp_path / "sweep"], tmp_path / "page.html").read_text()
    assert "Accuracy under rr{layer} by layer, with 95 % intervals over problems" in text
    assert text.count("<figcaption>Accuracy under") == 1


def test_command_line(analysed, tmp_path, capsys):
    out = tmp_path / "page.html"
    main(["report", str(analysed.config.out), "--out", str(out), "--traces", "1"])
    assert f"Report: {out}" in capsys.readouterr().out
    assert len(data_of(out)[1]) == 1
    with pytest.raises(SystemExit) as stop:
        main(["report", str(tmp_path / "nothing"), "--out", str(out)])
    assert stop.value.code == 2
    assert "nothing: no such folder" in capsys.readouterr().err


def test_findings_as_text(analysed):
    table = findings({"one/model": analysed, "other": replace(analysed)})
    assert table.splitlines()[0].split() == ["one/model", "other"]
    assert "accuracy" in table
