"""Draws the house from its imports, in the order of the map in design.md.

    python docs/layout.py

Every import counts: those at the top of a module, those inside functions, and modules named in
strings to be imported later. `tests/test_layout.py` holds the map against this drawing.
"""

import ast
import re
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mi_lens"
ENTRY = re.compile(r"^(?P<indent> +)(?P<name>\w+)(?P<kind>\.py|/)(?: |$)")


def mapped() -> list[str]:
    """The modules on the map, from the top down: "common.files" for mi_lens/common/files.py."""
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    block = page.split("```\nmi_lens/\n", 1)[1].split("\n```", 1)[0]
    modules, folders = [], []
    for line in block.splitlines():
        entry = ENTRY.match(line)
        if entry is None:
            raise ValueError(f"design.md, {line!r}: expected a file or a folder on each line")
        depth = len(entry["indent"]) // 2 - 1
        folders = [*folders[:depth], entry["name"]]
        if entry["kind"] == ".py":
            modules.append(".".join(folders))
    return modules


@cache
def modules() -> dict[str, Path]:
    """Every module of the package with its file; a folder's own file goes by the folder's name."""
    paths = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return paths


def imports(module: str) -> set[str]:
    """The modules of the package that a module imports, wherever in its text."""
    names = set()
    for node in ast.walk(ast.parse(modules()[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names |= {node.value} if re.fullmatch(r"mi_lens(\.\w+)+", node.value) else set()
    inside = {name.removeprefix("mi_lens.") for name in names if name.startswith("mi_lens.")}
    return {known for name in inside if (known := _module_of(name))} - {module}


def _module_of(name: str) -> str:
    """The module that a dotted name is, or is defined in; "" for a name of the package itself."""
    while name and name not in modules():
        name = name.rpartition(".")[0]
    return name


def floors() -> dict[str, int]:
    """For every module, the length of the longest chain of imports down from it.

    Raises:
        RecursionError: If modules import each other in a circle.
    """

    @cache
    def floor(module: str) -> int:
        return max((1 + floor(below) for below in imports(module)), default=0)

    return {module: floor(module) for module in modules()}


def drawing() -> str:
    """The map's modules in order, each with its floor and what it imports, folder by folder."""
    heights, place = floors(), {module: i for i, module in enumerate(mapped())}
    lines = []
    for module, own in place.items():
        against = sorted(below for below in imports(module) if place.get(below, -1) > own)
        folders = sorted({below.split(".")[0] for below in imports(module)})
        line = f"{heights[module]:3}  {module:48} <- {' '.join(folders)}"
        lines.append(line + (f"  AGAINST THE MAP: {', '.join(against)}" if against else ""))
    files = {module for module, path in modules().items() if path.name != "__init__.py"}
    lines += [f"  -  {module:48} not on the map" for module in sorted(files - set(place))]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(drawing() + "\n")
