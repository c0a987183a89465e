"""Runs studies one after another and writes the gallery: `python -m experiments`."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import tyro
from tqdm import tqdm

from experiments import STUDIES
from experiments.gallery import write_gallery


@dataclass(frozen=True)
class Config:
    """Which studies to run, each with its own defaults but for what is given here.

    Attributes:
        studies: Their names; none is all of them.
        limit: Problems of each; None leaves each its own number.
        runs: Folder of traces and states: what is there is not made again.
        out: Folder of the figures and the gallery.
    """

    studies: tuple[str, ...] = ()
    limit: int | None = None
    runs: Path = Path("runs/studies")
    out: Path = Path("figures")


def main(config: Config) -> None:
    """Runs them."""
    unknown = sorted(set(config.studies) - set(STUDIES))
    if unknown:
        raise SystemExit(f"unknown studies {unknown}; expected some of {', '.join(STUDIES)}")
    given = {} if config.limit is None else {"limit": config.limit}
    with tqdm(config.studies or STUDIES, unit="study") as bar:
        for name in bar:
            bar.set_description(name)
            study = import_module(f"experiments.{name}")
            study.main(study.Config(runs=config.runs, out=config.out, **given))
    print(write_gallery(config.out))


if __name__ == "__main__":
    main(tyro.cli(Config))
