"""Tables and text boxes in HTML, for the `_repr_html_` methods that notebooks call.

Every text is escaped. Each element carries its own style, and colours are transparent, so that
light and dark pages both show it well. Dollar signs in a text are not read as formulas.
"""

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

DASH = "–"  # stands for None
LONGEST = 6000  # characters of a text that are shown
SHORT = 40  # a cell of at most this many characters is not wrapped
UNSHOWABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
LINE = "1px solid rgba(128,128,128,.4)"
CELL = f"border:0;border-bottom:{LINE};padding:.25em .5em;vertical-align:top;"
NOTE = "text-align:left;font-size:.9em;opacity:.8;caption-side:top;padding:.2em 0;"
BOX = (
    "max-height:32em;overflow:auto;font-family:monospace;white-space:pre-wrap;overflow-wrap:anywhere;text-align:left;"
    f"border:{LINE};border-radius:4px;padding:.7em;margin:.4em 0;color:inherit;background:none;"
)


def element(tag: str, inside: str, style: str, **attributes: Any) -> str:
    """An element around HTML; dollar signs in it are not read as formulas.

    Args:
        tag: The element's name, such as "div".
        inside: The element's content, as HTML.
        style: The element's inline style, as CSS.
        attributes: Further attributes, such as title="..."; their values are escaped.
    """
    named = "".join(f' {name}="{escaped(str(value))}"' for name, value in attributes.items())
    return f'<{tag} class="tex2jax_ignore mathjax_ignore" style="{style}"{named}>{inside}</{tag}>'


def escaped(text: str) -> str:
    """The text escaped for a page; a character that HTML cannot hold becomes U+FFFD."""
    return html.escape(UNSHOWABLE.sub("\ufffd", text))


def one_line(text: str, longest: int) -> str:
    """The text on one line, cut at the end to at most `longest` characters."""
    line = " ".join(text.split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


Item = TypeVar("Item")


class ShownList(list[Item]):
    """A list that a notebook shows as a table, one row per item; a slice of it is one too.

    Subclasses say the columns, and what stands there for an item. In every other way it is the
    list: it equals a list of the same items, and JSON and pickle know it as one.
    """

    columns: ClassVar[tuple[str, ...]]
    most_rows: ClassVar[int] = 20

    def cells(self, item: Item) -> tuple[Any, ...]:
        """The cells of an item's row."""
        raise NotImplementedError

    def __getitem__(self, index: Any) -> Any:
        """An item; for a slice, a list of this class."""
        chosen = super().__getitem__(index)
        return type(self)(chosen) if isinstance(index, slice) else chosen

    def __repr__(self) -> str:
        more = f", ... {len(self):,} in all" if len(self) > 1 else ""
        return f"[{self[0]!r}{more}]" if self else "[]"

    def _repr_html_(self) -> str:
        rows = [(i, *self.cells(item)) for i, item in enumerate(self[: self.most_rows])]
        hidden = len(self) - len(rows)
        caption = f"{len(self):,} in all" + (f", the first {len(rows)} shown" if hidden else "")
        return table(rows, ("", *self.columns), caption)


def table(
    rows: Iterable[Sequence[Any]] | Mapping[str, Any],
    header: Sequence[str] = (),
    caption: str = "",
) -> str:
    """A table; a mapping becomes a table of two columns.

    Args:
        rows: The cells: texts, numbers (floats with four digits) or None.
        header: One name per column.
        caption: A line above the table.
    """
    listed = list(map(list, rows.items() if isinstance(rows, Mapping) else rows))
    columns = list(zip(*listed, strict=True)) or [()] * len(header)
    sides = ["left" if isinstance(rows, Mapping) else _side(column) for column in columns]
    body = "\n".join(_row("td", row, sides) for row in listed)
    above = f'<caption style="{NOTE}">{escaped(caption)}</caption>\n' if caption else ""
    head = f"<thead>{_row('th', header, sides)}</thead>\n" if header else ""
    inside = f"\n{above}{head}<tbody>\n{body}\n</tbody>\n"
    style = "border-collapse:collapse;margin:.4em 0;"
    return element("div", element("table", inside, style), "overflow-x:auto;")


def text_box(text: str) -> str:
    """A text with its line breaks, in a box that scrolls; a long text loses its middle."""
    shown = escaped(text)
    if len(text) > LONGEST:
        half = LONGEST // 2
        note = f"\n[{len(text) - 2 * half:,} characters are not shown here]\n"
        shown = f"{escaped(text[:half])}<em>{note}</em>{escaped(text[-half:])}"
    return element("pre", shown, BOX, tabindex=0)


def with_interval(
    mean: float | None, low: float | None, high: float | None, form: str = ".4g"
) -> str:
    """A number with its interval, such as "1.5 (1.2 to 1.9)"; a dash if there is no number."""
    if mean is None:
        return DASH
    shown = f"{mean + 0.0:{form}}"  # adding zero turns -0.0 into 0.0
    if low is not None and high is not None:
        shown += f" ({low + 0.0:{form}} to {high + 0.0:{form}})"
    return shown


def _side(column: Sequence[Any]) -> str:
    return "right" if any(isinstance(value, int | float) for value in column) else "left"


def _row(tag: str, cells: Sequence[Any], sides: Sequence[str]) -> str:
    shown = zip(map(_cell, cells), sides, strict=True)
    inside = (
        f'<{tag} style="{CELL}text-align:{side};{_wrapping(text)}">{escaped(text)}</{tag}>'
        for text, side in shown
    )
    return f"<tr>{''.join(inside)}</tr>"


def _wrapping(text: str) -> str:
    return "white-space:nowrap;" if len(text) <= SHORT else ""


def _cell(value: Any) -> str:
    if value is None:
        return DASH
    return f"{value:.4g}" if isinstance(value, float) else str(value)
