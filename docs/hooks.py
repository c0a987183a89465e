"""MkDocs hooks: they add pages from outside docs/ to the site and mend links for it.

The figures, their gallery, CONTRIBUTING and CHANGELOG stand elsewhere in the repository. Pages link
to them by their paths there, and the site has them at other addresses.
"""

import re
from pathlib import Path
from posixpath import dirname, normpath, relpath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changes.md"}
SHOWN = {".md", ".png", ".svg", ".json"}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#:\s]+)(#[^)\s]*)?\)")
ADDRESS = re.compile(r'(href|src)="([^"#:]+)(#[^"]*)?"')
# Notebooks load scripts from elsewhere, for formulas and diagrams that our notebook does not have.
LOADERS = re.compile(
    r'<script (?:src=""|type="(?:text/x-mathjax-config|module)")>.*?</script>', re.DOTALL
)


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages and figures from outside docs/."""
    figures = [p for p in sorted((ROOT / "figures").rglob("*")) if p.suffix in SHOWN]
    for path in [*figures, *map(ROOT.joinpath, PAGES)]:
        where = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, PAGES.get(where, where), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turns links between files of the repository into links between pages."""

    def mended(link: re.Match[str]) -> str:
        image, text, target, anchor = link.groups()
        there = in_repository(page, target)
        if there is None:
            return link[0]  # a mistake, which MkDocs reports
        to = in_site(there)
        if to is None:
            return text  # in the repository and not in the site, such as a script
        return f"{image}[{text}]({relpath(to, dirname(page.file.src_uri) or '.')}{anchor or ''})"

    return LINK.sub(mended, markdown)


def on_page_content(html: str, page: Any, files: Files, **_: Any) -> str:
    """Mends the links of notebooks, which are HTML by now."""
    if not page.file.src_uri.endswith(".ipynb"):
        return html

    def mended(link: re.Match[str]) -> str:
        kind, target, anchor = link.groups()
        there = in_repository(page, target)
        file = files.get_file_from_path(in_site(there) or "") if there else None
        if file is None:
            return link[0]
        return f'{kind}="{file.url_relative_to(page.file)}{anchor or ""}"'

    return ADDRESS.sub(mended, LOADERS.sub("", html))


def in_repository(page: Any, target: str) -> str | None:
    """The path in the repository that a page's relative link leads to; None if there is none."""
    here = Path(page.file.abs_src_path).relative_to(ROOT).as_posix()
    there = normpath(f"{dirname(here)}/{target}".lstrip("/"))
    return there if (ROOT / there).exists() else None


def in_site(path: str) -> str | None:
    """A repository file's path in the site; None if the site does not have it."""
    if path == "README.md":
        return "index.md"
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path.startswith("figures/") and Path(path).suffix in SHOWN:
        return path
    return PAGES.get(path)
