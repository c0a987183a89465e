import html
import re
from pathlib import Path

import pytest

from mi_lens import cli
from mi_lens.report.comparison_page import write_comparison
from mi_lens.runs.config import ImportConfig
from mi_lens.runs.import_text import run_import
from mi_lens.traces.trace import Trace
from mi_lens.traces.trace_files import save_traces
from tests.report.test_browser import opened

REASONER, PLAIN = "deepseek-r1-distill-qwen-1.5b", "qwen2.5-1.5b-instruct"


def text_of(page: Path) -> str:
    """What a reader sees, without markup, style and script."""
    body = re.sub(
        r"<(style|script|svg)\b.*?</\1>", " ", page.read_text(encoding="utf-8"), flags=re.S
    )
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def texts(folder: Path, name: str, **columns: str) -> Path:
    given = tuple(f"{ours}={theirs}" for ours, theirs in columns.items())
    run_import(ImportConfig(file=folder / f"{name}.jsonl", out=Path(name), columns=given))
    return Path(name)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def group(name, *texts, questions="abcdef", **settings):
    traces = [
        Trace.from_text(None, question, text, seed=i, **settings)
        for i, (question, text) in enumerate(zip(questions, texts, strict=False))
    ]
    save_traces(traces, name)
    return name


def test_two_models_of_real_texts(here, shared_data, capsys):
    first = texts(shared_data / "traces", f"cvenhoff_{REASONER}")
    second = texts(shared_data / "traces", f"cvenhoff_{PLAIN}", response="thinking")
    cli.main(["compare", str(first), str(second), "--out", "page.html"])
    assert capsys.readouterr().out == "Comparison: page.html\n"
    page = Path("page.html").read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=\"(https?:)?//", page)
    shown = text_of(Path("page.html"))
    assert re.search(rf"{first} writes “i”, .* more often .* than {second}", shown)
    assert "45 problems, paired by problem" in shown
    assert "Which answers are right is not known in both groups" in shown
    assert "share no problem" not in shown
    assert re.search(r"wait 3\.87 \(\S+ to \S+\) 0\.00 \+3\.87", shown)
    assert re.search(r"cut off execution 11 and", shown) is None  # no plain text is cut off
    assert re.search(r"not cut off execution 34 and 45", shown)


def test_labels_give_the_accuracy_and_thoughts_by_outcome(here, shared_data):
    names = ("aime25_QwQ-32B", "aime25_DeepSeek-R1-Distill-Qwen-1.5B")
    first, second = (texts(shared_data / "traces", name) for name in names)
    shown = text_of(write_comparison(first, second, "page.html"))
    assert "By the authors' labels, aime25_QwQ-32B has 76.9 (" in shown
    assert "a difference of +46.2 (+12.8 to +70.9) points (13 problems, paired by problem" in shown
    assert "Tango's for the difference" in shown
    assert "Thoughts of right and wrong traces: aime25_QwQ-32B" in shown
    assert "10 and 3 problems, not paired" in shown
    assert "not cut off execution" not in shown  # it would repeat all


def test_what_is_not_paired_is_said(here):
    a = group("a.jsonl", "So it is", "Wait, so", "so", is_correct=True)
    b = group("b.jsonl", "Hmm", "so", questions="xy", is_correct=False)
    shown = text_of(write_comparison(a, b, "page.html"))
    assert "a.jsonl and b.jsonl share no problem" in shown
    assert "No thinking word is known to differ" in shown
    assert "Newcombe's for the difference" in shown
    c = group("c.jsonl", "Hmm", "so", questions="ax", is_correct=False)
    shown = text_of(write_comparison(a, c, "page.html"))
    assert "Only the 1 problem that both groups have is compared" in shown
    assert "Left out are 2 problems of a.jsonl and 1 of c.jsonl" in shown
    assert "The comparison rests on 1 problem." in shown


def test_markup_in_names_and_texts_is_shown_as_it_is(here):
    a = group("<b>a&.jsonl", "<script>alert(1)</script> so")
    b = group("b.jsonl", "so")
    page = write_comparison(a, b, "page.html").read_text(encoding="utf-8")
    assert "<b>a" not in page
    assert "&lt;b&gt;a&amp;.jsonl" in page


def test_units_are_not_mixed_in_silence(here, tokenizer, capsys):
    group("a.jsonl", "So it is")
    save_traces([Trace.from_text(tokenizer, "a", "so it is not")], "b.jsonl")
    with pytest.raises(SystemExit):
        cli.main(["compare", "a.jsonl", "b.jsonl"])
    assert "1 of 2 traces are text alone" in (said := capsys.readouterr().err)
    assert "--unit 'text pieces'" in said
    cli.main(["compare", "a.jsonl", "b.jsonl", "--unit", "text pieces"])
    assert "Occurrences per 1,000 text pieces" in text_of(Path("compare.html"))


def test_tokens_of_other_models_may_be_another_unit(here, tokenizer):
    for name in ("a", "b"):
        save_traces([Trace.from_text(tokenizer, "q", f"so {name}", model=name)], f"{name}.jsonl")
    assert "If their tokenizers differ" in text_of(
        write_comparison("a.jsonl", "b.jsonl", "page.html")
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_stands_alone_in_a_browser(here, browser, scheme):
    a = group("a.jsonl", "So it is", "Wait, so", "so", is_correct=True)
    b = group("b.jsonl", "Hmm so", "so", "it is", is_correct=False)
    path = write_comparison(a, b, here / "page.html")
    page = opened(browser, path, width=380, scheme=scheme)
    assert page.asked == [path.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    other = {"light": "dark", "dark": "light"}[scheme]
    paper = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(paper)
    page.get_by_role("button", name=f"Switch to {other}").click()
    assert page.evaluate(paper) != before
    words = page.get_by_role("region", name="Thinking words")
    first = words.locator("tbody tr").first.locator("td").first
    assert first.inner_text() == "so"
    words.get_by_role("button", name="word").click()
    assert first.inner_text() == "alternatively"
    page.context.close()
    assert page.problems == []
