"""The pages: links, names, commands and settings in them are right, and the site builds."""

import ast
import importlib
import importlib.util
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from functools import reduce
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import tyro
import yaml

import mi_lens
from experiments import STUDIES
from experiments.labels import LABELS
from mi_lens.cli import COMMANDS
from mi_lens.evaluation.condition_sets import is_set
from mi_lens.interventions.condition import (
    parse_condition,
    parse_intervention,
    recorded_condition,
)
from mi_lens.interventions.vector import SteeringVector, save_vectors
from mi_lens.runs.config import EvaluateConfig, GenerateConfig
from mi_lens.runs.sets_of_run import parse_set
from mi_lens.runs.sweep_spec import Spec

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted(ROOT.glob("figures/**/*.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
    *sorted(ROOT.glob("docs/*.ipynb")),
]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def text_of(page: Path) -> str:
    """Markdown; of a notebook, that between its cells of code."""
    text = page.read_text(encoding="utf-8")
    if page.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text_of(page), re.DOTALL)


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_leads_somewhere(page):
    for link in LINK.findall(prose(page)):
        target, _, anchor = link.partition("#")
        if re.match(r"\w+:", target):
            assert target.startswith("https://"), link
            continue
        there = (page.parent / target).resolve() if target else page
        assert there.exists(), link
        assert there.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(there), link


def commands(page: Path) -> list[list[str]]:
    """Every command line of a page that begins with mi-lens, without the program's name."""
    lines = "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    inline = re.findall(r"`(mi-lens [^`]+)`", prose(page))
    split = [shlex.split(line, comments=True) for line in (*lines, *inline)]
    return [words[1:] for words in split if words[:1] == ["mi-lens"]]


@pytest.fixture
def vector_files(tmp_path, monkeypatch):
    """Stands in a folder that holds the files of vectors that pages name."""
    hooks = [f"blocks.{layer}.hook_resid_post" for layer in range(32)]

    def write(text: str) -> None:
        for name in re.findall(r"Steer\('([^']+)'", text):
            known = hooks if "hook_resid_post" in text else hooks[:1]
            save_vectors(
                [
                    SteeringVector(h, torch.ones(4), "m", "E-RT", "seal", {}, {}, None)
                    for h in known
                ],
                tmp_path / name,
            )

    monkeypatch.chdir(tmp_path)
    return write


WITH_COMMANDS = [page for page in PAGES if any(len(words) > 1 for words in commands(page))]


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=named)
def test_every_command_parses(page, vector_files):
    for words in commands(page):
        if len(words) == 1:  # only named
            assert words[0] in COMMANDS
            continue
        config: Any = tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="mi-lens", args=words)
        if isinstance(config, GenerateConfig):
            for text in config.intervene:
                vector_files(text)
                (recorded_condition if "my_module:" in text else parse_intervention)(text)
        if isinstance(config, EvaluateConfig):
            for text in config.conditions:
                vector_files(text)
                if is_set(text):
                    parse_set(text)
                    continue
                (recorded_condition if "my_module:" in text else parse_condition)(text)


def test_every_sweep_of_the_pages_is_one(vector_files):
    texts = [text for page in PAGES for text in blocks(page, "yaml")]
    assert len(texts) >= 2
    for text in texts:
        vector_files(text)
        spec = Spec.of(yaml.safe_load(text))
        assert len(spec.expand()) > len(spec.conditions)


def test_every_module_that_a_page_runs_exists():
    modules = {m for page in PAGES for m in re.findall(r"python -m ([\w.]+)", text_of(page))}
    assert modules
    for module in modules:
        assert importlib.util.find_spec(module), module


def test_every_target_that_a_page_makes_exists():
    targets = {
        t for page in PAGES for t in re.findall(r"(?:`|^)make ([\w-]+)", text_of(page), re.M)
    }
    assert targets >= {"demo", "test", "docs"}
    known = re.findall(r"(?m)^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert not targets - set(known)


def dotted(name: str) -> Any:
    """What a dotted name leads to; an error if it leads nowhere."""
    if name.removeprefix("mi_lens.") in mi_lens.__all__:
        return getattr(mi_lens, name.removeprefix("mi_lens."))
    parts = name.split(".")
    modules = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    module = next(path for path in modules if _is_module(path))
    return reduce(getattr, parts[module.count(".") + 1 :], importlib.import_module(module))


def _is_module(path: str) -> bool:
    try:
        return importlib.util.find_spec(path) is not None
    except ModuleNotFoundError:  # what comes before is no package
        return False


def test_the_paper_page_names_what_exists():
    page = prose(ROOT / "docs" / "paper-to-code.md")
    spans = re.findall(r"`([^`]+)`", page)
    names = [span for span in spans if span.startswith("mi_lens.")]
    assert len(names) > 100
    for name in names:
        dotted(name.split("(")[0])
    for span in spans:
        assert span in names or re.fullmatch(
            r"(blocks\.\d+\.)?(hook_resid_post|attn\.hook_z)|hidden_states\[20\]|direction\.(N|19)|peaks\.json",
            span,
        ), span


def test_the_paper_page_names_arguments_and_defaults():
    page = prose(ROOT / "docs" / "paper-to-code.md")
    calls = re.findall(r"`(mi_lens\.[\w.]+)(\([^`]+\))`( \(default\))?", page)
    assert sum(bool(default) for _, _, default in calls) >= 25
    for name, arguments, default in calls:
        call = ast.parse(f"f{arguments}", mode="eval").body
        assert isinstance(call, ast.Call)
        parameters = inspect.signature(dotted(name)).parameters
        for keyword in call.keywords:
            assert keyword.arg is not None
            assert keyword.arg in parameters, (name, keyword.arg)
            if default:
                value = ast.literal_eval(keyword.value)
                assert parameters[keyword.arg].default == value, (name, keyword.arg)


def test_every_public_name_stands_in_the_reference():
    text = "".join(page.read_text(encoding="utf-8") for page in ROOT.glob("docs/api/*.md"))
    paths = re.findall(r"^::: (mi_lens\.[\w.]+)$", text, re.MULTILINE)
    # Modules stand there for what their first lines say.
    told = [path.rsplit(".", 1)[1] for path in paths if not inspect.ismodule(dotted(path))]
    assert len(told) == len(set(told))
    missing = sorted(set(mi_lens.__all__) - set(told))
    assert not missing, f"put these names into a page of docs/api: {missing}"
    assert not set(told) - set(mi_lens.__all__)


def test_labels_of_the_findings_are_those_of_their_figures():
    label = f"({'|'.join(LABELS)})"
    links = r"\[(\w+)\]\(\.\./figures/(\w+)\.png\), \[rl\]\(\.\./figures/pocket-rl/(\w+)\.png\)"
    row = rf"\| {label} \| [^|]+ \| {label} \| {links} \|$"
    told = re.findall(row, prose(ROOT / "docs" / "pocket.md"), re.MULTILINE)
    assert {name for _, _, name, _, _ in told} == set(STUDIES)
    for of_reasoner, of_rl, name, *figures in told:
        assert figures == [name, name]
        for label, folder in ((of_reasoner, "."), (of_rl, "pocket-rl")):
            path = ROOT / "figures" / folder / f"{name}.json"
            assert json.loads(path.read_text(encoding="utf-8"))["label"] == label, (name, folder)


@pytest.mark.slow
def test_the_studies_of_reproduce_run_on_the_pocket_model(tmp_path, monkeypatch, capsys):
    """Each block, with the pocket model for a large one and its traces for those of a command.

    Its tables of costs are held against the arithmetic in tests/test_timings.py.
    """
    page = ROOT / "docs" / "reproduce.md"
    load, generate = mi_lens.load, mi_lens.generate
    model = load("pocket-reasoner", device="cpu")
    problems = mi_lens.load_problems("pocket", limit=12, split="train")
    traces = generate(model, problems, max_new_tokens=160)

    def shorter(model: Any, requests: Any, **settings: Any) -> Any:
        settings["max_new_tokens"] = 60
        return generate(model, requests[:2], **settings)

    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "ttts").mkdir(parents=True)
    monkeypatch.setattr(mi_lens, "load", lambda *_, **__: model)
    monkeypatch.setattr(mi_lens, "load_problems", lambda *_, **__: list(problems))
    monkeypatch.setattr(mi_lens, "load_traces", lambda _: list(traces))
    config = mi_lens.AnalyzeConfig(out=tmp_path / "analysis", limit=4, mismatched=2)
    analysis = mi_lens.analyze(config)
    monkeypatch.setattr(mi_lens, "Analysis", SimpleNamespace(load=lambda _: analysis))
    monkeypatch.setattr(mi_lens, "generate", shorter)
    fits = [
        ("blocks.19.hook_resid_post", "blocks.2.hook_resid_post"),
        ("blocks.31.hook_resid_post", "blocks.3.hook_resid_post"),
        ("words = [", "words = ['Wait', 'Hmm']; _ = ["),
        ("in SCALING_WORDS", "in ['So', 'Wait']"),
        ("budgets = [", "budgets = [40, 160]; _ = ["),
        ("budget=8192", "budget=180"),
    ]
    printed = []
    for block in blocks(page, "python"):
        small = block
        for theirs, ours in fits:
            small = small.replace(theirs, ours)
        exec(compile(small, str(page), "exec"), {"__name__": "study"})
        printed.append(capsys.readouterr().out)
    assert "frequency0=Suppress(" in "".join(printed)
    assert "SteeringVector(E-RT at blocks.2.hook_resid_post" in "".join(printed)


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_asks_for_nothing_from_elsewhere(tmp_path):
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        text=True,
        capture_output=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    assert "WARNING" not in built.stdout + built.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 20
    assert list((tmp_path / "site" / "figures").glob("*.png"))
    for page in pages:
        html = page.read_text(encoding="utf-8")
        fetched = re.findall(r"<(?:script|img|iframe)[^>]*\ssrc=[\"']?([^\"'\s>]+)", html)
        fetched += re.findall(r"<link[^>]*rel=[\"']?stylesheet[^>]*\shref=[\"']?([^\"'\s>]+)", html)
        fetched += re.findall(r"<link[^>]*href=[\"']?([^\"'\s>]+)[^>]*rel=[\"']?stylesheet", html)
        assert not [address for address in fetched if re.match(r"(https?:)?//", address)], page
        assert "doc-symbol-module" not in html, f"{page}: a module in a function's place"
