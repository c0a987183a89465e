"""The gallery: every figure of a folder with what it found, from the numbers beside it.

python -m experiments.gallery
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from experiments import STUDIES
from experiments.study import VERDICTS
from mi_lens.common.files import write_text

HEAD = """# Figures

Each was drawn by one command, with its numbers beside it (JSON: configuration, seed, model \
fingerprints, versions, intervals; SVG: the same picture for print). `make figures` draws all \
anew, from the traces in `runs/studies` where they are; `python -m experiments --studies NAME` \
draws some.

Everything here was run on the built-in pocket models, {models}, which are small and know \
arithmetic only. **None of it is a finding about a large model**; a finding against a paper is one \
about these models. "Against" means that what is claimed was not there or was reversed, within the \
intervals given; "in part", that some of it was, or that it was there and not told from a control; \
"undecided", that the intervals hold both. Intervals are 95 % bootstrap intervals over problems \
unless a figure says otherwise; problems are those that it was tried on, of the test split.

{counts}.
"""
NAMES = {"mi": "MI", "seal": "SEAL"}


@dataclass(frozen=True)
class Config:
    """Where the figures are.

    Attributes:
        out: Folder of the figures; gets README.md.
    """

    out: Path = Path("figures")


def write_gallery(folder: Path) -> Path:
    """Writes README.md of the studies that have a figure there, in the order of `STUDIES`."""
    found = {name: _record(folder / f"{name}.json") for name in STUDIES}
    records = {name: record for name, record in found.items() if record is not None}
    verdicts = [record["verdict"] for record in records.values()]
    models = sorted({name for record in records.values() for name in record["models"]})
    counts = ", ".join(
        f"{verdicts.count(verdict)} {title[0].lower()}{title[1:]}"
        for verdict, title in VERDICTS.items()
    )
    parts = [HEAD.format(models=", ".join(f"`{m}`" for m in models),
                         counts=f"{len(records)} figures: {counts}")]  # fmt: skip
    parts += [_entry(name, record) for name, record in records.items()]
    path = folder / "README.md"
    write_text(path, "\n".join(parts))
    return path


def _record(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


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
