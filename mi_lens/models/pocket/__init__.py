"""The built-in models: their checkpoints, and the workshop in which they were trained."""

from pathlib import Path

CHECKPOINTS: dict[str, Path] = {
    name: Path(__file__).parent / "checkpoints" / name
    for name in ("pocket-reasoner", "pocket-base")
}
