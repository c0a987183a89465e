"""The map in docs/design.md is the code's, and CONTRIBUTING.md's places are where it says."""

import ast
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mi_lens"
MOST_LINES, MOST_LINES_OF_CODE = 300, 60


def load_layout() -> ModuleType:
    spec = importlib.util.spec_from_file_location("layout", ROOT / "docs" / "layout.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


layout = load_layout()
MODULES = layout.modules()


def test_every_module_is_on_the_map_and_nothing_else():
    mapped = layout.mapped()
    assert len(mapped) == len(set(mapped))
    folders = {
        name for name, path in MODULES.items() if path.name == "__init__.py"
    }  # the package itself is ""
    assert set(mapped) == set(MODULES) - folders


def test_imports_point_up_the_map():
    place = {module: i for i, module in enumerate(layout.mapped())}
    against = [
        f"{module} imports {below}"
        for module in place
        for below in layout.imports(module)
        if place.get(below, -1) >= place[module]
    ]
    assert against == []


def test_folders_import_nothing_by_themselves():
    folders = [name for name, path in MODULES.items() if path.name == "__init__.py"]
    assert len(folders) > 12
    assert {folder: layout.imports(folder) for folder in folders if layout.imports(folder)} == {}


def test_nothing_is_imported_in_a_circle():
    assert max(layout.floors().values()) < len(MODULES)


def test_the_drawing_shows_what_stands_against_the_map(monkeypatch):
    assert "AGAINST" not in layout.drawing()
    assert "not on the map" not in layout.drawing()
    upside_down = layout.mapped()[::-1]
    monkeypatch.setattr(layout, "mapped", lambda: upside_down)
    assert "runs.analyze" in layout.drawing()
    assert re.search(r"AGAINST THE MAP:.* runs\.config", layout.drawing())


def test_an_import_counts_wherever_it_stands(monkeypatch, tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        "from mi_lens.common import files\n"
        "from mi_lens.traces.trace import Trace\n"
        "KINDS = {'Steer': 'mi_lens.interventions.steer'}\n"
        "def late():\n    import mi_lens.problems.loading\n"
    )
    monkeypatch.setitem(MODULES, "module", path)
    assert layout.imports("module") == {
        "common.files",
        "traces.trace",
        "interventions.steer",
        "problems.loading",
    }


def test_the_package_holds_the_demo_the_command_line_and_folders():
    assert {path.name for path in PACKAGE.glob("*.py*") if path.is_file()} == {
        "__init__.py",
        "__init__.pyi",
        "cli.py",
        "demo.py",
    }


@pytest.mark.parametrize("folder", ["mi_lens", "experiments"])
def test_a_module_is_short(folder):
    long = {
        str(path.relative_to(ROOT)): lines
        for path in (ROOT / folder).rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MOST_LINES
    }
    assert long == {}


def lines_of_code(function: ast.FunctionDef, lines: list[str]) -> int:
    """Without the docstring, blank lines and comments."""
    numbers = set(range(function.lineno, (function.end_lineno or 0) + 1))
    if ast.get_docstring(function) is not None:
        text = function.body[0]
        numbers -= set(range(text.lineno, (text.end_lineno or 0) + 1))
    code = [lines[number - 1].strip() for number in numbers]
    return sum(bool(line) and not line.startswith("#") for line in code)


@pytest.mark.parametrize("folder", ["mi_lens", "experiments"])
def test_a_function_is_short(folder):
    long = {}
    for path in (ROOT / folder).rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                count = lines_of_code(node, text.splitlines())
                if count > MOST_LINES_OF_CODE:
                    long[f"{path.relative_to(ROOT)}: {node.name}"] = count
    assert long == {}


def test_tests_mirror_the_package():
    apart = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if not (PACKAGE / path.parent.relative_to(ROOT / "tests")).is_dir()
        and path.parent.name not in ("real", "vllm")  # One model or engine, tested for much.
    ]
    assert apart == []


def places() -> list[tuple[str, str, str]]:
    """The change, the file and the name in it, of each row that names one."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = page.split("## Where to make a change", 1)[1]
    rows = re.findall(r"^\| (.+?) \| .*`([\w/]+\.py)`: `(\w+)` \|$", table, re.MULTILINE)
    assert len(rows) == len(re.findall(r"^\| (?!to add)", table, re.MULTILINE)) == 12
    return rows


@pytest.mark.parametrize(("change", "path", "name"), places())
def test_a_change_has_the_place_that_contributing_says(change, path, name):
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    defined = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    defined |= {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert name in defined, change


def test_paths_in_contributing_exist():
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:mi_lens|experiments|docs|tests)/[\w/.]*)`", page))
    assert len(named) > 10
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []
