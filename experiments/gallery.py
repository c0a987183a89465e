"""The gallery: a page of all figures in a folder, with the finding of each.

python -m experiments.gallery
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from experiments import STUDIES, STUDIES_OF_TEXTS
from experiments.labels import LABELS, TESTED, premise_of, tested_by
from experiments.summaries import with_interval
from mi_lens.common.files import write_text

HEAD = """# Figures

Each was drawn by one command, with its numbers beside it (JSON: configuration, seed, model \
fingerprints, versions, intervals; SVG: the same picture for print). `make figures` draws all \
anew, from the traces in `runs/studies` where they are; `python -m experiments --studies NAME` \
draws some.

Everything here{aside} was run on the built-in pocket models, {models}, which are small and know \
arithmetic only. **None of it is a finding about a large model**; a finding against a paper is one \
about these models. One rule computes each label from the figure's premises \
and tests (`experiments/labels.py`); both stand under the figure and in its JSON. Effects are \
positive where the claim is right; a margin is the smallest effect that would matter. Labels of \
different kinds do not add up, so nothing here counts them together. Intervals are 95 % intervals \
over problems unless a figure says otherwise; problems are those that it was tried on, of the test \
split.
"""
NAMES = {"mi": "MI", "seal": "SEAL"}


@dataclass(frozen=True)
class Config:
    """Which folder to describe.

    Attributes:
        out: Folder of the figures; it also gets README.md.
    """

    out: Path = Path("figures")


def write_gallery(folder: Path) -> Path:
    """Writes README.md for the studies that have a figure there, label by label.

    Raises:
        ValueError: If a record has no label.
    """
    paths = {name: folder / f"{name}.json" for name in STUDIES}
    records = {
        name: json.loads(path.read_text(encoding="utf-8"))
        for name, path in paths.items()
        if path.exists()
    }
    old = [name for name, record in records.items() if "label" not in record]
    if old:
        raise ValueError(
            f"{folder} has records without a label, drawn by an earlier version: {', '.join(old)}; "
            "draw them again (python -m experiments --studies ...)"
        )
    models = sorted({name for record in records.values() for name in record["models"]})
    of_texts = _of_texts(folder)
    aside = ", the last section aside," if of_texts else ""
    parts = [HEAD.format(models=", ".join(f"`{name}`" for name in models), aside=aside)]
    groups = [
        (heading, names)
        for label, heading in LABELS.items()
        if (names := [name for name, record in records.items() if record["label"] == label])
    ]
    for (title, _), names in groups:
        links = ", ".join(f"[{_title(name)}](#{name.replace('_', '-')})" for name in names)
        parts.append(f"- **{title}**: {links}.")
    for (title, meaning), names in groups:
        parts.append(f"\n## {title}\n\n{meaning}\n")
        parts += [entry(name, records[name]) for name in names]
    parts += of_texts
    path = folder / "README.md"
    write_text(path, "\n".join(parts))
    return path


TEXTS = """## Texts of large models

Large models wrote these texts, and whoever published them ran the models. They are read here as \
text alone: no state was read, and nothing was measured of what a model holds. The texts are not \
part of this repository; `--data` names their folder.
"""


def _of_texts(folder: Path) -> list[str]:
    """The section of the studies of texts; empty where they have no figure."""
    paths = {name: folder / f"{name}.json" for name in STUDIES_OF_TEXTS}
    entries = [
        entry(name, json.loads(path.read_text(encoding="utf-8")))
        for name, path in paths.items()
        if path.exists()
    ]
    return [TEXTS, *entries] if entries else []


def _title(name: str) -> str:
    title = " ".join(NAMES.get(word, word) for word in name.split("_"))
    return title[0].upper() + title[1:]


def entry(name: str, record: dict[str, Any], folder: str = "") -> str:
    """A study as a section of a page.

    Args:
        name: The study.
        record: What `experiments.study.save` wrote.
        folder: Where its figure lies, seen from the page: "" or a path that ends in a slash.
    """
    counts = record["label"] in TESTED
    figure = f"{folder}{name}"
    return f"""### {_title(name)}

![{_title(name)}]({figure}.png)

{record["about"][0].upper()}{record["about"][1:]}. Claim: {record["claim"]}

{record["text"]}

{"".join(_premise(premise) for premise in record["premises"])}\
{"".join(_test(test, counts) for test in record["tests"])}
`{record["command"]}`: {", ".join(record["models"])}, {record["scope"]}. \
[Numbers]({figure}.json), [SVG]({figure}.svg).
"""


def _premise(record: dict[str, Any]) -> str:
    holds = {True: "met", False: "not met", None: "not certain"}[premise_of(record).holds]
    return f"- Premise, {holds}. {record['text']}\n"


def _test(record: dict[str, Any], counts: bool) -> str:
    test = tested_by(record)
    digits = 3 if test.unit.startswith("of ") else 2 if test.unit != "points" else 1
    effect = with_interval(test.effect, digits=digits)
    kind = "Test" if counts else "Effect, which does not count here"
    return f"- {kind}: {test.name}, {effect} {test.unit}; margin {test.margin:.{digits}f}.\n"


if __name__ == "__main__":
    print(write_gallery(tyro.cli(Config).out))
