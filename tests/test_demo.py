"""The demo in small: every layer of both models, their traces, the words, and an intervention."""

import re

import pytest

from mi_lens.demo import run_demo
from mi_lens.evaluation.evaluate import Evaluation
from mi_lens.runs.analysis import Analysis
from mi_lens.runs.page_config import DemoConfig
from tests.processes import result_of


@pytest.mark.slow
def test_the_demo_shows_all_that_it_promises(tmp_path):
    printed = result_of(run_demo, DemoConfig(out=tmp_path, limit=6))
    layers = [f"blocks.{layer}.hook_resid_post" for layer in range(4)]
    for model in ("pocket-reasoner", "pocket-base"):
        analysis = Analysis.load(tmp_path / model)
        assert analysis.finished
        assert list(analysis.hook_names) == layers
        assert len(analysis.analysed) == 6
    evaluation = Evaluation.load(tmp_path / "intervention")
    assert evaluation.names == ["baseline", "quiet"]
    (quiet,) = evaluation.comparisons()
    assert quiet.tokens.mean is not None
    assert quiet.tokens.mean < 0  # no check is written
    assert "blocks.3.hook_resid_post" in printed
    assert "differences from 'baseline'" in printed
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    titles = re.findall(r"<h2[^>]*>(.*?)</h2>", page)
    assert "pocket-reasoner (evaluate) <small>evaluate</small>" in titles
    assert {"Side by side", "Traces"} <= set(titles)
    assert page.count("Words at the peaks of") == 2
    embedded = re.findall(r'<script[^>]*type="application/json"[^>]*>(.*?)</script>', page)
    assert all(at in embedded[1] for at in layers)  # the map of the first trace has every layer


@pytest.mark.slow
def test_another_model_is_shown_alone_on_word_problems(tmp_path):
    printed = result_of(run_demo, DemoConfig(out=tmp_path, model="pocket-base", limit=2))
    analysis = Analysis.load(tmp_path / "pocket-base")
    assert analysis.finished
    assert [trace.problem.id for trace in analysis.traces if trace.problem] == [
        "grade-school-01",
        "grade-school-02",
    ]
    assert Evaluation.load(tmp_path / "intervention").names == ["baseline", "plain"]
    assert "pocket-reasoner" not in printed
    with pytest.raises(FileExistsError, match="holds something else than a demo of pocket;"):
        run_demo(DemoConfig(out=tmp_path, limit=2))


def test_the_demo_takes_no_foreign_folder(tmp_path):
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(FileExistsError, match="holds something else than a demo"):
        run_demo(DemoConfig(out=tmp_path, limit=1))
    assert (tmp_path / "report.html").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
