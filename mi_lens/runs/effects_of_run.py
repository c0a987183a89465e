"""Effects of tokens and thoughts on success, kept in a run's folder for its page."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mi_lens.common.records import read_record, read_records, write_records
from mi_lens.common.statistics import Estimate
from mi_lens.common.writing import only_writer
from mi_lens.evaluation.along_trace import Effect, effects_along
from mi_lens.evaluation.critical_tokens import Rollouts
from mi_lens.evaluation.resample_thoughts import ResampledThought
from mi_lens.runs.folder import traces_so_far

EFFECTS = "effects.jsonl"


def add_effects(
    folder: str | Path,
    rollouts: Sequence[Rollouts] = (),
    resampled: Sequence[ResampledThought] = (),
) -> Path:
    """Keeps effects of tokens and thoughts in a run's folder, so that its page shows them.

    They go to effects.jsonl, one line per trace; new effects of a trace replace its old ones.
    `mi-lens report`, or `write_report`, then writes the page anew.

    Args:
        folder: A folder that generate, analyze, evaluate or sweep wrote.
        rollouts: What `roll_out` gives of traces of the run.
        resampled: What `resample_thoughts` gives of them.

    Returns:
        The path of the file.

    Raises:
        FileNotFoundError: If the folder holds no run.
        ValueError: If nothing is given, or something is of a trace that the run does not have.
        FileExistsError: If another process writes to the folder.
    """
    folder = Path(folder)
    if not (folder / "sweep.json").is_file():
        read_record(folder)  # says what is missing
    files = [folder / "traces.jsonl", *sorted(folder.glob("units/*/traces.jsonl"))]
    traces = {trace.id for file in files for trace in traces_so_far(file)}
    given = dict.fromkeys(result.trace for result in (*rollouts, *resampled))
    if unknown := [id_ for id_ in given if id_ not in traces]:
        raise ValueError(
            f"{folder}: has no trace {unknown[0]} ({len(unknown)} of {len(given)} traces are not "
            "of this run); give results of its own traces"
        )
    if not given:
        raise ValueError("nothing to add; give rollouts or resampled thoughts")
    with only_writer(folder):
        kept = effects_of_run(folder)
        kept |= {id_: effects_along(id_, rollouts, resampled) for id_ in given}
        rows = ({"trace": id_, "effects": list(map(asdict, found))} for id_, found in kept.items())
        write_records(folder / EFFECTS, rows)
    return folder / EFFECTS


def effects_of_run(folder: str | Path) -> dict[str, tuple[Effect, ...]]:
    """What `add_effects` keeps in a folder: trace id to effects; often nothing.

    Raises:
        DamagedError: If the file was altered.
    """
    return {
        row["trace"]: tuple(
            Effect(each["start"], each["stop"], Estimate(**each["effect"]))
            for each in row["effects"]
        )
        for row in read_records(Path(folder) / EFFECTS)
    }
