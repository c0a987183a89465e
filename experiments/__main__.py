"""Runs studies one after another and writes the gallery: `python -m experiments`."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import tyro
from tqdm import tqdm

from experiments import STUDIES, STUDIES_OF_TEXTS
from experiments.gallery import write_gallery


@dataclass(frozen=True)
class Config:
    """Which studies to run. Settings that are not given here keep each study's defaults.

    Attributes:
        studies: Names of the studies; none means all of them. Studies of published texts are
            skipped where the texts are not.
        limit: Number of problems for every study; None keeps each study's own number.
        runs: Folder of traces and states; a study reuses what lies there.
        out: Folder that gets the figures and the gallery.
    """

    studies: tuple[str, ...] = ()
    limit: int | None = None
    runs: Path = Path("runs/studies")
    out: Path = Path("figures")


def main(config: Config) -> None:
    """Runs the studies and writes the gallery."""
    studies = (*STUDIES, *STUDIES_OF_TEXTS)
    unknown = sorted(set(config.studies) - set(studies))
    if unknown:
        raise SystemExit(f"unknown studies {unknown}; expected some of {', '.join(studies)}")
    settings = {} if config.limit is None else {"limit": config.limit}
    with tqdm(config.studies or studies, unit="study") as bar:
        for name in bar:
            bar.set_description(name)
            study = import_module(f"experiments.{name}")
            study.main(study.Config(runs=config.runs, out=config.out, **settings))
    print(write_gallery(config.out))


if __name__ == "__main__":
    main(tyro.cli(Config))
