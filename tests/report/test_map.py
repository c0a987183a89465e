"""The map on the page: the cells are the numbers, and a cell is picked by mouse and keyboard."""

import numpy as np
import pytest

from mi_lens.report.packing import packed, unpacked
from mi_lens.report.page import write_report
from tests.report.conftest import THOUGHTS
from tests.report.test_browser import HOOKS, opened, trace_of

MIDDLES = """count => {
    const image = document.getElementById("map-image"), { width, height } = image;
    const all = image.getContext("2d").getImageData(0, 0, width, height).data;
    const place = (row, step) =>
        4 * (Math.floor((3.5 - row) * height / 4) * width
            + Math.floor((step + 0.5) * width / count));
    return [0, 1, 2, 3].map(row => [...Array(count).keys()]
        .map(step => [...all.slice(place(row, step), place(row, step) + 3)]));
}"""


@pytest.fixture(scope="module")
def path(build, tmp_path_factory):
    folder = tmp_path_factory.mktemp("map")
    build(folder / "a", [THOUGHTS, THOUGHTS * 2], HOOKS)
    build(folder / "b", [THOUGHTS], HOOKS[:1])
    return write_report([folder / "a", folder / "b"], folder / "page.html")


@pytest.fixture(params=[("light", 1200), ("dark", 400)])
def page(browser, path, request):
    scheme, width = request.param
    page = opened(browser, path, width, scheme)
    yield page
    page.context.close()
    assert page.problems == []


def test_packed_numbers_come_back():
    values = np.random.default_rng(0).gamma(0.5, 0.02, 100)
    np.testing.assert_allclose(unpacked(packed(values)), values, rtol=1e-7)


def test_deeper_cells_have_higher_values(browser, path):
    page = opened(browser, path)
    data = trace_of(page)
    values = np.array([hook["mi"] for hook in data["hooks"]])
    cells = np.array(page.evaluate(MIDDLES, values.shape[1]), dtype=float).sum(-1)
    top = np.quantile(values, 0.98)
    inside = values < top
    order = np.argsort(values[inside], kind="stable")
    assert (np.diff(cells[inside][order]) <= 3).all()  # The paper is the lightest.
    assert np.ptp(cells[inside]) > 300
    assert np.ptp(cells[~inside]) <= 6
    page.check("#map-rows")
    cells = np.array(page.evaluate(MIDDLES, values.shape[1]), dtype=float).sum(-1)
    assert (cells.min(1) == cells.min()).all()  # Every row has cells of the deepest colour.
    page.context.close()


def test_keyboard_and_mouse_pick_the_same_cell(page):
    data = trace_of(page)
    page.focus("#map-cells")
    peaks = data["hooks"][1]["peaks"]
    for key, layer, step in (
        ("ArrowUp", 1, 0),
        ("ArrowDown", 0, 0),
        ("ArrowDown", 0, 0),
        ("ArrowUp", 1, 0),
        ("End", 1, len(data["tokens"]) - 1),
        ("ArrowRight", 1, len(data["tokens"]) - 1),
        ("Home", 1, 0),
        ("ArrowRight", 1, 1),
        ("ArrowLeft", 1, 0),
        ("n", 1, next(peak for peak in peaks if peak > 0)),
        ("n", 1, [peak for peak in peaks if peak > 0][1]),
        ("p", 1, next(peak for peak in peaks if peak > 0)),
    ):
        page.keyboard.press(key)
        said = page.inner_text("#map-cell")
        assert said.startswith(f"Step {step}:"), key
        assert HOOKS[layer] in said
        assert f"raw MI {data['hooks'][layer]['mi'][step]:.4g}"[:10] in said
        assert page.input_value("#layer") == HOOKS[layer]
        assert page.evaluate("document.querySelector('#text .now').step") == step
    assert "raw peak" in said
    page.keyboard.press("m")
    assert page.is_checked("[value=specific]")
    assert "specific part" in page.inner_text("#map-title")
    place, image = page.locator("#map-image").bounding_box(), page.locator("#map-cells")
    count, corner = len(data["tokens"]), image.bounding_box()
    x = place["x"] - corner["x"] + place["width"] * 7.5 / count
    image.click(position={"x": x, "y": place["y"] - corner["y"] + place["height"] * 0.1})
    assert page.inner_text("#map-cell").startswith("Step 7:")
    assert HOOKS[3] in page.inner_text("#map-cell")


def test_a_part_of_the_steps_follows_the_picked_one(page):
    data = trace_of(page)
    page.evaluate("document.getElementById('map-span').options[2].value = 20")
    page.select_option("#map-span", index=2)
    shown = "all => all.map(text => Number(text.textContent)).filter(Number.isFinite)"
    page.focus("#map-cells")
    page.keyboard.press("End")
    last = len(data["tokens"]) - 1
    numbers = page.eval_on_selector_all("#map-cells text:not(.tokens)", shown)
    assert max(numbers) > last - 20
    page.keyboard.press("PageUp")
    assert page.inner_text("#map-cell").startswith(f"Step {last - 2}:")


def test_one_layer_has_no_map(page):
    assert page.is_visible("#map")
    page.select_option("#pick", index=2)
    assert not page.is_visible("#map")


def test_the_theme_changes_the_cells(page):
    count = len(trace_of(page)["tokens"])
    before = page.evaluate(MIDDLES, count)
    page.click("#theme")
    page.wait_for_timeout(100)
    assert page.evaluate(MIDDLES, count) != before
    # The browser advises against reading the picture twice, which only this test does.
    page.problems[:] = [text for text in page.problems if "getImageData" not in text]


def test_a_cell_where_specific_peaks_cannot_be_known(browser, build, tmp_path):
    build(tmp_path / "few", [THOUGHTS], HOOKS, others=4)
    page = opened(browser, write_report([tmp_path / "few"], tmp_path / "few.html"))
    page.focus("#map-cells")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#map-cell").startswith("Step 1:")
    page.keyboard.press("m")
    assert "specific part" in page.inner_text("#map-title")
    page.context.close()
    assert page.problems == []
