"""What the checksums cost: records and states read with and without their verification.

    python -m experiments.timings.verifying

Both ways read the same numbers in one process, one after the other. The medians of their CPU times
and of their ratio are printed.
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from safetensors.torch import load_file

from mi_lens.common.records import read_records, write_records
from mi_lens.states.shard import load_activations, save_activations

REPEATS = 15


def seconds(read: Callable[[], object]) -> float:
    """The CPU time of a call."""
    begun = time.process_time()
    read()
    return time.process_time() - begun


def compare(name: str, megabytes: float, plain: Callable, verified: Callable) -> None:
    """Prints how long both ways take."""
    pairs = [(seconds(plain), seconds(verified)) for _ in range(REPEATS)]
    times = [median(column) for column in zip(*pairs, strict=True)]
    ratio = median(b / a for a, b in pairs)
    print(f"{name}, {megabytes:.0f} MB: {times[0]:.3f} s, verified {times[1]:.3f} s, x {ratio:.2f}")


def main() -> None:
    """Writes a file of each kind to a temporary folder, and reads it both ways."""
    torch.set_num_threads(1)
    numbers = np.random.default_rng(0).normal(size=(50, 20_000)).tolist()
    states = {f"blocks.{i}.hook_resid_post": torch.randn(4000, 2048) for i in range(4)}
    with tempfile.TemporaryDirectory() as folder:
        rows, shard = Path(folder) / "readings.jsonl", Path(folder) / "states.safetensors"
        write_records(rows, [{"trace": str(i), "mi": row} for i, row in enumerate(numbers)])
        save_activations(states, shard)
        compare(
            "records",
            rows.stat().st_size / 1e6,
            lambda: [json.loads(line) for line in rows.read_bytes().splitlines()],
            lambda: read_records(rows),
        )
        compare(
            "states",
            shard.stat().st_size / 1e6,
            lambda: [state.sum() for state in load_file(shard).values()],
            lambda: [state.sum() for state in load_activations(shard).values()],
        )


if __name__ == "__main__":
    main()
