"""The Python examples of the README and of the guides run as they stand, block after block."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run_examples(page: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    namespace = {"__name__": "examples"}
    for block in blocks:
        exec(compile(block, str(page), "exec"), namespace)


@pytest.mark.slow
def test_the_readme(capsys):
    run_examples(ROOT / "README.md")
    assert re.search(r"^\S+ \d+ lift \d", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.slow
def test_the_guide_to_interventions(capsys):
    run_examples(ROOT / "docs" / "interventions.md")
    out = capsys.readouterr().out
    assert out.startswith("quiet eos ({'step': ")
    assert "Evasion(prevented=" in out


@pytest.mark.slow
def test_the_guide_to_evaluation(capsys):
    run_examples(ROOT / "docs" / "evaluation.md")
    out = capsys.readouterr().out
    assert "20 problems, 20 traces a condition" in out
    assert '0.0 ("engine: ' in out
