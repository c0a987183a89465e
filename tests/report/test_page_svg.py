"""A figure's SVG as part of the page."""

from io import BytesIO
from xml.etree import ElementTree

import matplotlib.pyplot as plt

from mi_lens.report.page_svg import SVG, XLINK, page_svg
from mi_lens.report.plots.style import BLUE, style


def drawn() -> bytes:
    """A curve, markers, an opaque band and a text that is markup."""
    file = BytesIO()
    with style():
        figure, axes = plt.subplots()
        axes.plot([0, 1, 2], [0, 1, 0], color=BLUE, marker="o")
        axes.fill_between([0, 1, 2], [0, 0, 0], [1, 2, 1], color="#123456", alpha=0.2)
        axes.set_title("<script>alert(1)</script>")
        figure.savefig(file, format="svg", metadata={"Date": None})
    plt.close(figure)
    return file.getvalue()


def test_styles_become_attributes_with_the_colours_of_the_page():
    text = page_svg(drawn(), "first")
    root = ElementTree.fromstring(text)
    elements = list(root.iter())
    assert not any("style" in element.attrib for element in elements)
    assert not {f"{{{SVG}}}style", f"{{{SVG}}}metadata"} & {element.tag for element in elements}
    colours = {element.get(name) for element in elements for name in ("fill", "stroke")}
    assert {"var(--curve)", "var(--ink)", "var(--paper)", "#123456"} <= colours
    assert BLUE.lower() not in text.lower()
    assert "#000000" not in text
    assert "script" not in text
    # Nothing that was drawn is lost.
    before = ElementTree.fromstring(drawn())
    for tag in ("path", "use", "g"):
        assert len(root.findall(f".//{{{SVG}}}{tag}")) == len(before.findall(f".//{{{SVG}}}{tag}"))
    band = next(e for e in elements if e.get("fill") == "#123456")
    assert float(band.get("fill-opacity", "1")) == 0.2


def test_ids_of_two_figures_differ_and_references_hold():
    ids = []
    for name in ("first", "second"):
        elements = list(ElementTree.fromstring(page_svg(drawn(), name)).iter())
        own = {element.get("id") for element in elements if "id" in element.attrib}
        used = {href[1:] for e in elements if (href := e.get(f"{{{XLINK}}}href"))}
        clips = {e.get("clip-path", "")[5:-1] for e in elements if "clip-path" in e.attrib}
        assert used
        assert clips
        assert used | clips <= own
        ids.append(own)
    assert not ids[0] & ids[1]
