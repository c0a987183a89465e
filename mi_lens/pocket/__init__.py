"""The built-in reasoner: a task with known answers, and two small models trained on it."""

from pathlib import Path

from mi_lens.pocket.task import answer_entropy, pocket_problems

__all__ = ["CHECKPOINTS", "answer_entropy", "pocket_problems"]

CHECKPOINTS: dict[str, Path] = {
    name: Path(__file__).parent / "checkpoints" / name
    for name in ("pocket-reasoner", "pocket-base")
}
