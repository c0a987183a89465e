"""The page as a reader meets it: opened in a browser, by mouse and by keyboard."""

import re
from dataclasses import asdict
from zlib import crc32

import pytest

from mi_lens.common.records import write_records
from mi_lens.report.packing import unpacked
from mi_lens.report.page import write_report
from mi_lens.report.palette import contrast
from mi_lens.report.traces import rounded
from mi_lens.runs.effects_of_run import add_effects
from mi_lens.traces.thoughts import Thought
from mi_lens.traces.vocabulary import SCALING_WORDS
from tests.evaluation.along import a_belief, resampled, rollouts_at
from tests.report.conftest import THOUGHTS

HOOKS = tuple(f"blocks.{layer}.hook_resid_post" for layer in range(4))
HOSTILE = (
    "</script><script>window.hit = 1</script> <img src=x onerror='window.hit = 1'> <!-- "
    "&lt;b&gt; {{ 7 * 7 }} \u2028 \u2029 � ${window.hit = 1} "
)


def opened(browser, path, width=1200, scheme="light"):
    """The page in a window, and what it asked for and complained of."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.problems, page.asked = [], []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda message: page.problems.append(message.text))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(path.as_uri())
    return page


@pytest.fixture(scope="module")
def path(build, tmp_path_factory):
    """Two analyses of three traces at four layers."""
    folder = tmp_path_factory.mktemp("page")
    event = {"step": 5, "what": "logits", "wanted": 90, "emitted": 91}
    build(folder / "a", [THOUGHTS * n for n in (3, 1, 2)], HOOKS, events=(event,))
    build(folder / "b", [THOUGHTS] * 2, HOOKS[:1])
    return write_report([folder / "a", folder / "b"], folder / "page.html")


@pytest.fixture
def page(browser, path):
    page = opened(browser, path)
    yield page
    page.context.close()
    assert page.problems == []


PACKED_MI = "JSON.parse(document.getElementById('trace-0').textContent).hooks[0].mi"


def trace_of(page):
    """The first trace of the page, its numbers with the four digits that the page shows."""
    data = page.evaluate("JSON.parse(document.getElementById('trace-0').textContent)")
    rows = [(data, ("entropy", "surprisal"))]
    for hook in data["hooks"]:
        rows += [(hook, ("mi",)), (hook["specific"], ("values", "mean", "std", "p", "family"))]
    for holder, names in rows:
        for name in names:
            holder[name] = rounded(unpacked(holder[name]))
    return data


def wait_for(page, condition):
    """Waits until a condition holds. Playwright's own way needs eval, which the page forbids."""
    for _ in range(200):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(25)
    raise AssertionError(f"not so after five seconds: {condition}")


def value(page, label):
    """What the details say of the step."""
    return page.evaluate(
        """label => [...document.querySelectorAll("#details dt")]
            .find(term => term.textContent === label).nextElementSibling.textContent""",
        label,
    )


def classes(page):
    return page.eval_on_selector_all("#text .t", "all => all.map(span => span.className)")


def test_ten_times_the_tokens_are_ten_times_the_work(browser, build, tokenizer, tmp_path):
    """Counted, not timed: `experiments.timings.opening` says how long a page takes."""
    each = len(tokenizer.encode(THOUGHTS))
    hooks = [f"blocks.{layer}.hook_resid_post" for layer in range(30)]
    counts, tokens = [], []
    for size in (1_000, 10_000):
        run = tmp_path / str(size)
        (trace,) = build(run, [THOUGHTS * (size // each + 1)], hooks).traces
        path = write_report([run], tmp_path / f"{size}.html")
        assert path.stat().st_size < 2e6 + 2e3 * len(trace)
        page = opened(browser, path)
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable")
        page.reload()
        assert page.locator("#text .t").count() == len(trace)
        metrics = session.send("Performance.getMetrics")["metrics"]
        elements = page.evaluate("document.querySelectorAll('*').length")
        counts.append({m["name"]: m["value"] for m in metrics} | {"elements": elements})
        tokens.append(len(trace))
        page.context.close()
    few, many = counts
    names = ("LayoutCount", "RecalcStyleCount", "JSEventListeners", "elements")
    print({name: (few[name], many[name]) for name in names})
    for name in names[:3]:
        assert 0 < many[name] <= few[name] + 4, name
    assert many["elements"] - few["elements"] <= 2 * (tokens[1] - tokens[0])


@pytest.mark.parametrize("width", [400, 1200])
def test_nothing_overlaps(browser, path, width):
    page = opened(browser, path, width)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    groups = (
        "header, main > section",
        ".controls > *",
        "#viewer > *:not(.hidden)",
        "#text, #details",
        ".bar > *",
        "#text > .thought",
        "#scale li",
        "#run-1 > *",
        "#run-1 .panel:not([hidden]) > *",
    )
    for group in groups:
        boxes = page.eval_on_selector_all(
            group,
            """all => all.map(span => span.getBoundingClientRect())
                .filter(box => box.width && box.height)
                .map(box => [box.left, box.top, box.right, box.bottom])""",
        )
        assert len(boxes) > 1, group
        assert all(left >= 0 and right <= width + 0.5 for left, _, right, _ in boxes), group
        for i, a in enumerate(boxes):
            for b in boxes[:i]:
                apart = a[0] >= b[2] - 1 or b[0] >= a[2] - 1 or a[1] >= b[3] - 1 or b[1] >= a[3] - 1
                assert apart, (group, a, b)
    page.context.close()


def test_markup_in_a_trace_is_shown_and_not_run(browser, build, tmp_path):
    texts, questions = [HOSTILE + THOUGHTS, HOSTILE], ["LONE " + HOSTILE, HOSTILE]
    analysis = build(tmp_path / "run", texts, HOOKS[:1], questions=questions)
    traces = tmp_path / "run" / "traces.jsonl"  # JSON may hold half of a surrogate pair
    sealed = re.findall(r'(.*), "checksum": "[0-9a-f]{8}"}\n', traces.read_text())
    half = [line.replace("LONE", "\\ud800") for line in sealed]
    sums = [crc32(line.encode()) for line in half]
    lines = zip(half, sums, strict=True)
    traces.write_text("".join(f'{line}, "checksum": "{sum_:08x}"}}\n' for line, sum_ in lines))
    path = write_report([tmp_path / "run"], tmp_path / "page.html", tmp_path / "figures")
    page = opened(browser, path)
    assert page.evaluate("window.hit") is None
    shown = page.evaluate("document.getElementById('text').textContent")
    assert shown.startswith("</script><script>window.hit = 1</script> <img src=x onerror=")
    about = page.evaluate("document.getElementById('about').textContent")
    for part in ("<!--", "&lt;b&gt;", "{{ 7 * 7 }}", "�", "${window.hit = 1}"):
        assert part in shown
        assert part in about
    assert "\u2028 \u2029" in about
    tokens = page.evaluate("JSON.parse(document.getElementById('trace-0').textContent).tokens")
    assert tokens == analysis.token_strings[0]
    assert about[0] in ("\ud800", "�")
    assert about[1:].startswith(" </script><script>window.hit")
    assert page.locator("#viewer img").count() == 0
    assert page.locator("body script").count() == 4  # the data, two traces, the page's own
    assert page.problems == []
    page.context.close()


def test_the_policy_stops_what_escaping_might_miss(page):
    page.evaluate("""() => {
        const script = document.createElement("script");
        script.textContent = "window.hit = 1";
        document.body.append(script);
        fetch("http://127.0.0.1:9/").catch(() => {});
        const image = document.createElement("img");
        image.src = "http://127.0.0.1:9/x.png";
        document.body.append(image);
    }""")
    page.wait_for_timeout(100)
    assert page.evaluate("window.hit") is None
    refused = [text for text in page.problems if "Content Security Policy" in text]
    assert len(refused) >= 3
    page.problems.clear()


def test_no_request_leaves(page, path):
    for select in ("#pick", "#layer"):
        page.select_option(select, index=1)
    page.check("[value=specific]")
    outside = [url for url in page.asked if not url.startswith(("data:", path.as_uri()))]
    assert outside == []


def test_layer_and_measure_change_colours(page):
    at_first = classes(page)
    assert {name.split()[1][0] for name in at_first} == {"h"}
    legend = page.inner_text("#scale")
    curve = page.get_attribute("#plot .curve", "d")
    page.select_option("#layer", HOOKS[2])
    at_third = classes(page)
    assert at_third != at_first
    assert page.inner_text("#scale") != legend
    assert page.get_attribute("#plot .curve", "d") != curve
    page.check("[value=specific]")
    specific = classes(page)
    assert {name.split()[1][0] for name in specific} == {"d"}
    assert "standard deviations of 64 other answers" in page.inner_text("#scale")
    # A layer that the next trace has too is kept.
    page.select_option("#pick", index=1)
    assert page.input_value("#layer") == HOOKS[2]


def test_shades_are_of_the_numbers(page, path):
    data = trace_of(page)
    hook = data["hooks"][0]
    shades = [int(name.split(" h")[1][0]) for name in classes(page)]
    values = unpacked(page.evaluate(PACKED_MI))
    assert shades == [sum(mi >= edge for edge in hook["edges"]) for mi in values]
    marked = [i for i, name in enumerate(classes(page)) if " peak" in name]
    assert marked == hook["peaks"]
    own = [i for i, name in enumerate(classes(page)) if " specific" in name]
    assert own == hook["specific"]["peaks"]
    assert own
    assert set(own) != set(marked)


def test_keyboard(page):
    data = trace_of(page)
    hook, blocks = data["hooks"][0], data["blocks"]
    peaks = sorted({*hook["peaks"], *hook["specific"]["peaks"]} - {0})
    page.hover("#text .t >> nth=30")  # a mouse at rest in the text does not disturb
    page.focus("#text")
    for key, step in (
        ("ArrowRight", 1),
        ("ArrowRight", 2),
        ("ArrowLeft", 1),
        ("Home", 0),
        ("n", peaks[0]),
        ("j", peaks[1]),
        ("k", peaks[0]),
        ("n", peaks[1]),
        ("p", peaks[0]),
        ("Home", 0),
        ("ArrowDown", blocks[1][0]),
        ("ArrowDown", blocks[2][0]),
        ("ArrowUp", blocks[1][0]),
        ("End", len(data["tokens"]) - 1),
        ("ArrowRight", len(data["tokens"]) - 1),
    ):
        page.keyboard.press(key)
        assert value(page, "step") == f"{step} of {len(data['tokens'])}", key
        assert page.evaluate("document.querySelector('#text .now').step") == step
        assert page.get_attribute("#plot", "aria-valuenow") == str(step)
        assert float(value(page, "raw MI")) == hook["mi"][step]
        assert float(value(page, "specific part")) == hook["specific"]["values"][step]
        assert float(value(page, "p, this step alone")) == hook["specific"]["p"][step]
        assert float(value(page, "entropy, bits")) == data["entropy"][step]
        assert float(value(page, "surprisal, bits")) == data["surprisal"][step]
        seen = page.evaluate("""() => {
            const box = document.getElementById("text").getBoundingClientRect();
            const own = document.querySelector("#text .now").getBoundingClientRect();
            return own.top >= box.top && own.bottom <= box.bottom;
        }""")
        assert seen, key
    page.keyboard.press("Home")
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert value(page, "interventions").startswith("logits wanted ")
    assert "interventions logits" in page.inner_text("#spoken")
    page.keyboard.press("]")
    assert page.input_value("#layer") == HOOKS[1]
    page.keyboard.press("m")
    assert page.is_checked("[value=specific]")
    page.focus("#plot")
    page.keyboard.press("ArrowRight")
    assert value(page, "step").startswith("6 of")
    # Every control can be reached by Tab.
    reached = set()
    page.focus("#pick")
    for _ in range(9):
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.name"))
        page.keyboard.press("Tab")
    of_map = {"map-rows", "map-span", "map-cells"}
    assert reached == {"pick", "layer", "measure", "words", "plot", "text"} | of_map


def test_mouse(page):
    data = trace_of(page)
    steps = len(data["tokens"])
    box = page.locator("#plot").bounding_box()
    page.locator("#plot").click(position={"x": box["width"] * 0.7, "y": 50})
    step = page.evaluate("document.querySelector('#text .now').step")
    assert abs(step - 0.7 * steps) < 0.05 * steps
    assert abs(float(page.get_attribute("#plot .cursor", "x1")) - 0.7 * box["width"]) < 8
    page.evaluate("document.getElementById('text').scrollTop = 0")
    page.hover("#text .t >> nth=7")
    assert value(page, "step") == f"7 of {steps}"
    page.hover("h1")
    assert value(page, "step") == f"{step} of {steps}"
    page.click("#text .t >> nth=4")
    assert page.evaluate("document.querySelector('#text .now').step") == 4


def test_words_and_thoughts(page):
    def underlined():
        return page.eval_on_selector_all(
            "#text .word", "all => all.map(span => span.textContent.trim().toLowerCase())"
        )

    assert {"so", "let"} <= set(underlined()) <= {word.lower() for word in SCALING_WORDS}
    page.fill("#words", "ME, zebra")
    assert set(underlined()) == {"me"}
    kinds = page.eval_on_selector_all("#text .thought", "all => all.map(span => span.className)")
    letters = page.eval_on_selector_all(
        "#text .thought", "all => all.map(span => span.dataset.letter)"
    )
    named = {"thought reflection": "R", "thought transition": "T", "thought execution": "E"}
    assert letters == [named.get(kind, "") for kind in kinds]
    assert {"R", "T", "E"} <= set(letters)
    margins = page.eval_on_selector_all(
        "#text .thought", "all => all.map(thought => getComputedStyle(thought).borderLeftStyle)"
    )
    assert len({m for m, letter in zip(margins, letters, strict=True) if letter}) == 3


def test_tables_sort(page):
    table = page.locator("figure.table:has(figcaption:text('Peak statistics')) table").first
    heads = table.locator("th").all_inner_texts()
    column = next(i for i, head in enumerate(heads) if head.startswith("mean MI"))

    def column_keys():
        return [
            float(cell.get_attribute("data-key"))
            for cell in table.locator(f"tbody td:nth-child({column + 1})").all()
        ]

    before = column_keys()
    head = table.locator("th").nth(column)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert column_keys() == sorted(before)
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert column_keys() == sorted(before, reverse=True)
    table.locator("th").nth(0).locator("button").focus()
    page.keyboard.press("Space")
    assert head.get_attribute("aria-sort") == "none"
    assert column_keys() == before
    # Another layer's tables.
    page.select_option("#run-1 .panels", index=1)
    assert page.locator("#run-1 .panel:visible h3").inner_text() == HOOKS[1]


VISIBLE = """() => {
    const ground = (element) => {
        for (; element; element = element.parentElement) {
            const colour = getComputedStyle(element).backgroundColor;
            if (colour !== "rgba(0, 0, 0, 0)") return colour;
        }
        return "rgb(255, 255, 255)";
    };
    const pairs = new Map();
    for (const element of document.querySelectorAll("body *")) {
        const own = [...element.childNodes].some(n => n.nodeType === 3 && n.data.trim());
        if (!own || element.tagName === "SCRIPT" || !element.getClientRects().length) continue;
        const style = getComputedStyle(element);
        const ink = element.closest("svg") ? style.fill : style.color;
        const colours = `${ink} ${ground(element)}`;
        pairs.set(colours, `${element.tagName}.${element.getAttribute("class")}`);
    }
    return [...pairs];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(browser, path, scheme):
    page = opened(browser, path, scheme=scheme)
    for measure in ("raw", "specific"):
        page.check(f"[value={measure}]")
        pairs = page.evaluate(VISIBLE)
        assert len(pairs) > 10
        for colours, where in pairs:
            ink, ground = (
                "#" + "".join(f"{int(c):02x}" for c in re.findall(r"\d+", colour)[:3])
                for colour in re.findall(r"rgba?\([^)]*\)", colours)
            )
            assert contrast(ink, ground) >= 4.5, (where, ink, ground)
    page.context.close()


def test_light_and_dark(page):
    def ground():
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    def inks():
        return page.eval_on_selector_all(
            ".drawn svg, .drawn svg [fill^=var], .drawn svg [stroke^=var]",
            "all => all.map(e => getComputedStyle(e).fill + getComputedStyle(e).stroke)",
        )

    light, drawn = ground(), inks()
    assert page.inner_text("#theme") == "Switch to dark"
    page.click("#theme")
    assert len(drawn) > 50
    assert all(a != b for a, b in zip(drawn, inks(), strict=True))
    assert ground() != light
    assert page.inner_text("#theme") == "Switch to light"
    page.focus("#theme")
    page.keyboard.press("Enter")
    assert ground() == light
    assert inks() == drawn
    assert page.inner_text("#theme") == "Switch to dark"


def now(page):
    return page.evaluate("document.querySelector('#text .now').step")


def test_a_link_opens_a_trace_at_a_step(browser, path, page):
    data = page.evaluate("JSON.parse(document.getElementById('data').textContent)")
    name, steps = data["index"][2]["name"], data["index"][2]["steps"]
    assert page.evaluate("location.hash") == ""  # nobody has chosen a step yet
    step = steps - 40
    link = f"{path.as_uri()}#trace={name}&step={step}&layer={HOOKS[2]}"
    linked = browser.new_page(viewport={"width": 1000, "height": 900})
    linked.goto(link)
    assert linked.input_value("#pick") == "2"
    assert linked.input_value("#layer") == HOOKS[2]
    assert now(linked) == step
    assert value(linked, "step") == f"{step} of {steps}"
    assert linked.evaluate("""() => {
        const box = document.getElementById("text").getBoundingClientRect();
        const own = document.querySelector("#text .now").getBoundingClientRect();
        return own.top >= box.top && own.bottom <= box.bottom && own.top >= 0
            && own.bottom <= innerHeight;
    }""")
    # The other way: a step that is chosen is in the address, and in the link to copy.
    linked.click("#text .t >> nth=4")
    chosen = f"#trace={name}&step=4&layer={HOOKS[2]}"
    assert linked.evaluate("location.hash") == linked.get_attribute("#link", "href") == chosen
    linked.select_option("#layer", HOOKS[0])
    assert linked.evaluate("location.hash") == f"#trace={name}&step=4"
    linked.select_option("#pick", "1")
    assert linked.evaluate("location.hash") == f"#trace={data['index'][1]['name']}&step=0"
    linked.evaluate("hash => { location.hash = hash; }", f"#trace={name}&step=7")
    wait_for(linked, "document.querySelector('#text .now').step === 7")
    assert linked.input_value("#pick") == "2"
    # A table's row leads to its trace.
    linked.click("#run-1 .panel:not([hidden]) td a >> nth=1")
    wait_for(linked, "document.querySelector('#pick').value === '1'")
    linked.close()


@pytest.mark.parametrize("wanted", ["trace=nothing&step=3", "trace={name}&step=9999"])
def test_a_link_to_what_is_not_there_says_so(browser, path, page, wanted):
    data = page.evaluate("JSON.parse(document.getElementById('data').textContent)")
    linked = browser.new_page()
    linked.goto(f"{path.as_uri()}#{wanted.format(name=data['index'][2]['name'])}")
    assert "which is not on this page" in linked.inner_text("#missing")
    assert linked.input_value("#pick") == "0"
    linked.close()


def test_sorting_says_what_it_will_do(page):
    button = page.locator("#findings th button").nth(2)
    assert button.get_attribute("title") == "Sort the rows, lowest first"
    button.click()
    assert button.get_attribute("title") == "Sort the rows, highest first"
    button.click()
    assert button.get_attribute("title") == "Sort the rows, lowest first"


WRITTEN = {
    "baseline": [THOUGHTS + "So it is 79.", THOUGHTS + "It is 78.", THOUGHTS],
    "quiet": [THOUGHTS + "So it is 80.", THOUGHTS + "It is 78.", THOUGHTS + "It is 79."],
    "idle": [THOUGHTS + "So it is 79.", THOUGHTS + "It is 78.", THOUGHTS],
}


@pytest.fixture(scope="module")
def compared(build_evaluation, tmp_path_factory):
    """Three problems under three conditions: one changes two traces, one changes none."""
    folder = tmp_path_factory.mktemp("compared")
    traces = build_evaluation(folder / "run", WRITTEN)
    return traces, write_report([folder / "run"], folder / "page.html")


def test_side_by_side(browser, compared):
    traces, path = compared
    page = opened(browser, path)
    base, quiet = traces[0], traces[3]
    ids = zip(base.token_ids, quiet.token_ids, strict=False)
    step = next(i for i, (a, b) in enumerate(ids) if a != b)
    assert f"At step {step}, baseline writes “" in page.inner_text("#parting")
    titles = page.locator("#sides h3").all_inner_texts()
    assert titles == ["baseline", "quiet"]
    tokens = page.evaluate("JSON.parse(document.getElementById('trace-0').textContent).tokens")
    visible = "".join(tokens[step:]).replace("\n", "↵\n")
    assert page.locator("#sides .prose").first.text_content().replace("↵", "") == visible.replace(
        "↵", ""
    )
    assert page.locator("#sides mark").first.text_content() == tokens[step]
    # What both begin with unfolds.
    shared = page.locator("#shared .prose")
    assert not shared.is_visible()
    page.click("#shared summary")
    assert shared.is_visible()
    assert shared.text_content().replace("↵", "") == "".join(tokens[:step])
    # The same tokens are said to be the same, and shown when asked for.
    page.select_option("#right", label="idle")
    assert page.inner_text("#parting") == f"baseline and idle wrote the same {len(base)} tokens."
    assert page.locator("#sides article").count() == 0
    groups = page.eval_on_selector_all("#pair optgroup", "all => all.map(group => group.label)")
    assert groups == ["different tokens (2)", "the same tokens under every condition (1)"]
    # A trace that goes on where the other ends; and the way into the text above.
    page.select_option("#pair", index=1)
    assert "baseline writes nothing more" in page.inner_text("#parting")
    assert page.locator("#sides mark").first.inner_text() == "The trace ends here."
    page.click("#sides article >> nth=1 >> a")
    wait_for(page, f"document.querySelector('#text .now')?.step === {len(traces[2])}")
    assert "Condition: quiet" in page.inner_text("#about")
    assert page.problems == []
    page.context.close()


def test_rows_that_changed_nothing_unfold(browser, compared):
    _, path = compared
    page = opened(browser, path)
    folded = {
        "Conditions against baseline": "1 condition with the same tokens as baseline on every "
        "problem",
        "Results by problem": "1 problem with the same tokens under every condition",
    }
    for caption, line in folded.items():
        table = page.locator(f"figure.table:has(figcaption:text('{caption}'))")
        assert table.locator("tbody").nth(0).locator("tr").count() == 2
        row = table.locator("details tbody tr")
        assert row.count() == 1
        assert not row.is_visible()
        assert table.locator("summary").inner_text().endswith(line)
        act, content = table.locator(".act"), "act => getComputedStyle(act, '::before').content"
        assert act.evaluate(content) == '"Show"'
        table.locator("summary").focus()
        page.keyboard.press("Enter")
        assert row.is_visible()
        assert act.evaluate(content) == '"Hide"'
    assert page.problems == []
    page.context.close()


def test_findings_come_before_traces_and_definitions(page, browser, compared):
    def heights(page, *selectors):
        return [page.locator(s).first.bounding_box()["y"] for s in selectors]

    order = ("h1", ".conclusion", "#findings table", "#findings .plain", "#viewer", "#run-1")
    assert heights(page, *order) == sorted(heights(page, *order))
    other = opened(browser, compared[1])
    order = ("h1", ".conclusion", "#run-1 table", "#pairs", "#viewer", "#made")
    assert heights(other, *order) == sorted(heights(other, *order))
    other.context.close()


def test_beliefs_and_effects_stand_below_mi(browser, build, tmp_path):
    analysis = build(tmp_path / "run", [THOUGHTS * 2, THOUGHTS], HOOKS[:1])
    first = analysis.traces[0]
    belief = a_belief(first)
    thought = Thought("reflection", "Wait", 40, 60)
    row = {"trace": first.id, "belief": asdict(belief), "why": None}
    write_records(tmp_path / "run" / "belief.jsonl", [row])
    add_effects(tmp_path / "run", [rollouts_at(first, 3)], [resampled(first, thought)])
    page = opened(browser, write_report([tmp_path / "run"], tmp_path / "page.html"))
    steps, box = len(first), page.locator("#plot svg").bounding_box()
    asked = page.get_attribute("#plot .belief.gold", "d").removeprefix("M").split("L")
    assert len(asked) == len(belief.cuts)
    width = box["width"] - 62
    points = [tuple(map(float, point.split())) for point in asked]
    expected = [52 + cut / steps * width for cut in belief.cuts]
    assert [x for x, _ in points] == pytest.approx(expected, abs=0.6)
    low, high = (points[i][1] for i in (4, 0))  # from 2^-8 up to 2^-0.1
    assert (low - high) / 56 == pytest.approx(2**-0.1 - 2**-8, abs=0.01)
    assert page.locator("#plot .belief.final").count() == 1
    assert page.locator("#plot .mark.of-token").count() == 1
    assert page.locator("#plot .interval.bar.of-thought").count() == 1
    assert float(page.get_attribute("#plot .settled", "x1")) == pytest.approx(
        52 + belief.cuts[3] / steps * width, abs=0.6
    )
    assert page.locator("#plot .entropy").count() == 1
    texts = page.locator("#plot text").evaluate_all("all => all.map((e) => e.textContent)")
    assert "belief: gold 79, final 81" in texts
    boxes = page.locator("#plot text").evaluate_all(
        "all => all.map((e) => { const b = e.getBBox(); return [b.x, b.y, b.width, b.height]; })"
    )
    apart = [
        (a, b)
        for i, (x, y, w, h) in enumerate(boxes)
        for j, (left, top, wide, tall) in enumerate(boxes[:i])
        for a, b in [(texts[i], texts[j])]
        if x < left + wide and left < x + w and y + 3 < top + tall - 3 and top + 3 < y + h - 3
    ]
    assert apart == []
    page.focus("#plot")
    page.keyboard.press("End")
    details = page.inner_text("#details")
    assert f"belief in gold, asked at {belief.cuts[4]}" not in details  # it lies behind the end
    assert f"belief in gold, asked at {belief.cuts[3]}" in details
    page.select_option("#pick", "1")
    assert page.locator("#plot .belief, #plot .mark, #plot .settled, #plot .entropy").count() == 0
    assert page.locator("#plot .curve").count() == 1
    assert page.problems == []
    page.context.close()
