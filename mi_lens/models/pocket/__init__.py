"""The built-in models: their checkpoints, and in `training` the code that trained them."""

from pathlib import Path

CHECKPOINTS: dict[str, Path] = {
    name: Path(__file__).parent / "checkpoints" / name
    for name in ("pocket-reasoner", "pocket-base", "pocket-rl", "pocket-rl-base")
}
# What each reasoner is compared with: a twin whose texts do not reflect, and its own start.
BASES = {"pocket-reasoner": "pocket-base", "pocket-rl": "pocket-rl-base"}
