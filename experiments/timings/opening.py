"""How long a browser takes to open pages of traces.

    python -m experiments.timings.opening PAGE...

Each page is opened in turn, in a new window of Chromium; the medians of the times from navigation
to the second frame are printed.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import tyro
from playwright.sync_api import sync_playwright

PAINTED = """new Promise(done => requestAnimationFrame(() =>
    requestAnimationFrame(() => done(performance.now()))))"""  # ms since navigation began
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class Config:
    """What to open.

    Attributes:
        pages: Pages, as `mi-lens report` writes them.
        repeats: Number of times that each is opened.
    """

    pages: tyro.conf.Positional[tuple[Path, ...]]
    repeats: int = 9


def browser_here() -> str | None:
    """The path of a Chromium; None if there is none."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def main(config: Config) -> None:
    """Opens the pages and prints how long each took."""
    executable = browser_here()
    if executable is None:
        raise SystemExit(f"no browser here; expected one of {', '.join(BROWSERS)}")
    times: dict[Path, list[float]] = {page: [] for page in config.pages}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        for _ in range(config.repeats):
            for path, of_page in times.items():
                page = browser.new_page(viewport={"width": 1200, "height": 900})
                page.goto(path.resolve().as_uri())
                of_page.append(page.evaluate(PAINTED))
                page.close()
        browser.close()
    for path, of_page in times.items():
        size = path.stat().st_size / 1e6
        print(f"{path}: {median(of_page):.0f} ms (least {min(of_page):.0f}), {size:.1f} MB")


if __name__ == "__main__":
    main(tyro.cli(Config))
