"""A figure's SVG as part of the page: its colours are the page's, light or dark."""

import re
from xml.etree import ElementTree

from mi_lens.report.plots.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
INK, PAPER = "#000000", "#ffffff"
# A colour of the figures to the CSS variable that report.css gives for light and dark paper.
VARIABLES = {
    INK: "ink",
    PAPER: "paper",
    BLUE: "curve",
    ORANGE: "raw",
    GREEN: "own",
    GREY: "grey",
    SKY: "sky",
    PURPLE: "purple",
}
COLOURS = {colour.lower(): f"var(--{name})" for colour, name in VARIABLES.items()}
NUMBER = re.compile(r"\d+\.\d{3,}")


def page_svg(svg: bytes, name: str) -> str:
    """Rewrites a figure's SVG file as an element of the page.

    Styles become attributes, since the page's policy allows no styles but its own. Colours of
    `mi_lens.report.plots.style`, black and white become CSS variables; others stay. Paths keep a
    hundredth of a point.

    Args:
        svg: An SVG file as matplotlib writes it.
        name: The figure's name; ids begin with it, so that those of several figures differ.

    Returns:
        The <svg> element, hidden from screen readers, which read the figure's alternative text.
    """
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        _restyle(element, f"{name}-")
    # What the file's own style sheet says of every element, and black, its default ink.
    root.attrib |= {
        "fill": COLOURS[INK],
        "stroke-linejoin": "round",
        "stroke-linecap": "butt",
        "aria-hidden": "true",
    }
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    return ElementTree.tostring(root, encoding="unicode")


def _restyle(element: ElementTree.Element, prefix: str) -> None:
    """Turns one element's style into attributes, its colours into variables, and renames its id."""
    for part in element.attrib.pop("style", "").split(";"):
        key, _, value = part.partition(":")
        if value:
            element.set(key.strip(), value.strip())
    for key, value in element.attrib.items():
        if key == "id":
            element.set(key, prefix + value)
        elif key == f"{{{XLINK}}}href" and value.startswith("#"):
            element.set(key, f"#{prefix}{value[1:]}")
        elif value.startswith("url(#"):
            element.set(key, value.replace("url(#", f"url(#{prefix}"))
        elif key == "d":
            element.set(key, NUMBER.sub(lambda number: f"{float(number[0]):.2f}", value))
        elif key in ("fill", "stroke"):
            element.set(key, COLOURS.get(value.lower(), value))
