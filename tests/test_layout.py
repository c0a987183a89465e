"""The map in docs/design.md is the code's: every module is on it, and imports point one way."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mi_lens"


def layout() -> dict[str, int]:
    """Module or folder of the package to the line of the map on which it stands."""
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    block = page.split("```\nmi_lens/\n", 1)[1].split("\ntests/", 1)[0]
    lines = {}
    for number, line in enumerate(block.splitlines()):
        named = re.match(r"  (?:(?:\w+\.py(?:\(i\))? *)+|\w+/)", line)
        for name in re.findall(r"\w+(?=\.py|/)", named[0]) if named else []:
            lines[name] = number
    return lines


def modules() -> dict[str, list[Path]]:
    """Module or folder of the package to its files."""
    found = {path.stem: [path] for path in PACKAGE.glob("*.py")}
    return found | {
        folder.name: list(folder.rglob("*.py"))
        for folder in PACKAGE.iterdir()
        if (folder / "__init__.py").exists()
    }


def imported(path: Path) -> set[str]:
    """Modules and folders of the package that a file imports when it is imported itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mi_lens"):
            parts = (node.module or "").split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    return found


def test_every_module_is_on_the_map_and_nothing_else():
    children = {path.stem for path in PACKAGE.glob("*_child.py")}
    assert set(layout()) - {"__init__"} == set(modules()) - children - {"__init__"}


def test_imports_point_one_way():
    line = layout()
    against = [
        f"{path.relative_to(PACKAGE)} imports {other}"
        for name, files in modules().items()
        if name in line
        for path in files
        for other in imported(path)
        if other in line and line[other] > line[name]
    ]
    assert against == []
