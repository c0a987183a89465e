"""The Python examples of the README and of the pages run as they stand, block after block."""

import contextlib
import io
import re
from functools import partial
from pathlib import Path

import pytest

import mi_lens
from mi_lens.models.backends.lookup import NAMES, available
from tests.processes import result_of

ROOT = Path(__file__).resolve().parents[1]
PAGES = {  # page -> what it prints, among other things
    "README.md": r"(?m)^\S+ \d+ lift \d",
    "docs/index.md": r"(?m)^\d+ '.*' 0\.\d{3}$",
    "docs/concepts.md": r"(?m)^(execution|reflection|transition) \d+ \w",
    "docs/information.md": r"(?s)\A\(0, .*Settled\(when='\w+.*\n\d+ of 3\n\Z",
    "docs/interventions.md": r"(?s)\Aquiet eos \(\{'step': .*Evasion\(\d+ words prevented;",
    "docs/engines.md": r"\A8 of 8 traces have the same tokens\n\Z",
    "docs/evaluation.md": r"(?s)20 problems, 20 traces a condition.*0\.0 \(\"engine: ",
}


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def printed_by(page: Path) -> str:
    """What a page's examples print. In a child types are not checked, which takes half of the time.

    The functions that they call have tests of their own, where types are.
    """
    with contextlib.redirect_stdout(io.StringIO()) as out:
        run_examples(page)
    return out.getvalue()


def run_examples(page: Path) -> None:
    namespace = {"__name__": "examples"}
    for block in python_blocks(page):
        exec(compile(block, str(page), "exec"), namespace)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_examples_of(page):
    assert re.search(PAGES[page], result_of(printed_by, ROOT / page))


@pytest.mark.slow
@pytest.mark.parametrize("backend", NAMES)
def test_the_guide_with_transformerlens_runs_on(backend, monkeypatch, capsys):
    if backend not in available():
        pytest.skip(f"this TransformerLens has no backend {backend!r}")
    monkeypatch.setattr(mi_lens, "load", partial(mi_lens.load, backend=backend, device="cpu"))
    run_examples(ROOT / "docs" / "with-transformerlens.md")
    printed = capsys.readouterr().out
    assert "hooks: 'zero head 0 of block 1, v1' against None" in printed
    assert "blocks.1.attn.hook_result' does not exist on this model, or is switched off" in printed


def test_no_page_with_examples_is_left_out():
    pages = [ROOT / "README.md", *ROOT.glob("docs/*.md")]
    with_examples = {p.relative_to(ROOT).as_posix() for p in pages if python_blocks(p)}
    # test_docs.py runs those of reproduce.md, with the pocket model in a large one's place.
    assert with_examples - {"docs/reproduce.md", "docs/with-transformerlens.md"} == set(PAGES)
