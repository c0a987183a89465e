"""The gallery: a page of all figures in a folder, with the finding of each.

python -m experiments.gallery
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from experiments import STUDIES, STUDIES_OF_TEXTS
from experiments.study import VERDICTS
from mi_lens.common.files import write_text

HEAD = """# Figures

Each was drawn by one command, with its numbers beside it (JSON: configuration, seed, model \
fingerprints, versions, intervals; SVG: the same picture for print). `make figures` draws all \
anew, from the traces in `runs/studies` where they are; `python -m experiments --studies NAME` \
draws some.

Everything here, the last section aside, was run on the built-in pocket models, {models}, which \
are small and know arithmetic only. **None of it is a finding about a large model**; a finding \
against a paper is one about these models. "Against" means that what is claimed was not there or \
was reversed, within the intervals given; "in part", that some of it was, or that it was there \
and not told from a control; "undecided", that the intervals hold both. Intervals are 95 % \
bootstrap intervals over problems unless a figure says otherwise; problems are those that it was \
tried on, of the test split.

{counts}.
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
    """Writes README.md for the studies that have a figure there, in the order of `STUDIES`."""
    paths = {name: folder / f"{name}.json" for name in STUDIES}
    records = {
        name: json.loads(path.read_text(encoding="utf-8"))
        for name, path in paths.items()
        if path.exists()
    }
    verdicts = [record["verdict"] for record in records.values()]
    names = sorted({name for record in records.values() for name in record["models"]})
    counts = ", ".join(
        f"{verdicts.count(verdict)} {title[0].lower()}{title[1:]}"
        for verdict, title in VERDICTS.items()
    )
    models = ", ".join(f"`{name}`" for name in names)
    parts = [HEAD.format(models=models, counts=f"{len(records)} figures: {counts}")]
    parts += [_entry(name, record) for name, record in records.items()]
    parts += _of_texts(folder)
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
        _entry(name, json.loads(path.read_text(encoding="utf-8"))).replace("## ", "### ", 1)
        for name, path in paths.items()
        if path.exists()
    ]
    return [TEXTS, *entries] if entries else []


def _entry(name: str, record: dict[str, Any]) -> str:
    title = " ".join(NAMES.get(word, word) for word in name.split("_"))
    title = title[0].upper() + title[1:]
    return f"""## {title}

![{title}]({name}.png)

**{VERDICTS[record["verdict"]]}** ({record["about"]}). There: {record["claim"]}

{record["text"]}

`{record["command"]}`: {", ".join(record["models"])}, {record["scope"]}. \
[Numbers]({name}.json), [SVG]({name}.svg).
"""


if __name__ == "__main__":
    print(write_gallery(tyro.cli(Config).out))
