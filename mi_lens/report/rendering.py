"""A page in one file: a template with its style and its script, and nothing from elsewhere."""

import json
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mi_lens.common.files import write_text
from mi_lens.report.palette import shades_css


def rendered(template: str, styles: Sequence[str], scripts: Sequence[str], **values: Any) -> str:
    """The text of a page.

    Args:
        template: Name of the template, in the folder of this module.
        styles: Names of the style sheets.
        scripts: Names of the scripts; an earlier one's names are known to later ones.
        values: The values of the template. `style`, `script` and their hashes, by which the page's
            security policy allows them and no others, are added.
    """
    environment = Environment(
        loader=PackageLoader("mi_lens.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = "\n".join(["", *map(_asset, styles), shades_css(), ""])
    script = "\n".join(["", *map(_asset, scripts), ""])
    return environment.get_template(template).render(
        **values,
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def written_page(text: str, path: str | Path) -> Path:
    """Writes a page and returns its path. A lone surrogate becomes U+FFFD: UTF-8 has none."""
    write_text(path, text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    return Path(path)


def embedded(value: Any) -> str:
    """JSON that is safe inside a script element, whatever text it holds."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)  # ASCII only: no U+2028
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _asset(name: str) -> str:
    return files("mi_lens.report").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + b64encode(sha256(text.encode()).digest()).decode()
