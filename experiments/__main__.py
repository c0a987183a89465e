"""Runs studies one after another and writes the gallery: `python -m experiments`."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import tyro
from tqdm import tqdm

from experiments import STUDIES, STUDIES_OF_TEXTS
from experiments.gallery import write_gallery
from experiments.study import Study


@dataclass(frozen=True)
class Config:
    """Which studies to run. Settings that are not given here keep each study's defaults.

    Attributes:
        studies: Names of the studies; none means all of them. Studies of published texts are
            skipped where the texts are not.
        model: The model. Studies of texts have none, and are run with the default only.
        limit: Number of problems for every study; None keeps each study's own number.
        runs: Folder of traces and states; a study reuses what lies there.
        out: Folder that gets the figures and the gallery. With another model than the default,
            both folders have one of its name inside.
    """

    studies: tuple[str, ...] = ()
    model: str = Study.model
    limit: int | None = None
    runs: Path = Study.runs
    out: Path = Study.out


def main(config: Config) -> None:
    """Runs the studies and writes the gallery."""
    other = config.model != Study.model
    studies = STUDIES if other else (*STUDIES, *STUDIES_OF_TEXTS)
    unknown = sorted(set(config.studies) - set(studies))
    if unknown:
        raise SystemExit(f"unknown studies {unknown}; expected some of {', '.join(studies)}")
    settings: dict[str, Any] = {"runs": config.runs, "out": config.out}
    if other:
        inside = Path(config.model).name
        settings = {name: folder / inside for name, folder in settings.items()}
        settings["model"] = config.model
    if config.limit is not None:
        settings["limit"] = config.limit
    with tqdm(config.studies or studies, unit="study") as bar:
        for name in bar:
            bar.set_description(name)
            study = import_module(f"experiments.{name}")
            study.main(study.Config(**settings))
    print(write_gallery(settings["out"]))


if __name__ == "__main__":
    main(tyro.cli(Config))
