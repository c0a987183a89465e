"""Times decoding on a CPU as usual, in pieces, and in pieces that torch.compile compiled.

    OMP_NUM_THREADS=1 python -m experiments.timings.compiled_steps

On a GPU the pieces of `mi_lens.models.backends.recorded_steps` are CUDA graphs. On a CPU nothing
can be recorded, and a compiler may take that place; this shows what it would gain. It runs the
pocket reasoner, in which a step takes about as long as it takes to start its operations. The
compiler of torch.compile needs one for C++.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

import mi_lens
from mi_lens.models.backends import hooked, positions

Recorder = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]


def as_usual(run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """A piece that is run again, not replayed."""
    output = run().clone()

    def replay() -> None:
        output.copy_(run())

    return replay, output


def compiled(run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """A piece that torch.compile compiled."""
    return as_usual(torch.compile(run, dynamic=False))


def seconds(model: Any, rows: int, tokens: int) -> float:
    """CPU time of a generation."""
    start = time.process_time()
    mi_lens.generate(
        model,
        ["What is 37 * 44 + 5?"] * rows,
        max_new_tokens=tokens,
        stop=(-1,),
        batch_size=rows,
        progress=False,
    )
    return time.process_time() - start


def main() -> None:
    """Prints a row for each way and batch size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=100, help="tokens beyond the first 20")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    args = parser.parse_args()
    model: Any = mi_lens.load("pocket-reasoner", device="cpu")
    model.tokenizer.eos_token = None  # No trace ends before its budget.
    ways: dict[str, tuple[Recorder | None, int]] = {
        "as usual": (None, 1),
        "in pieces": (as_usual, 256),
        "compiled": (compiled, 256),
    }
    print("| batch | way | first 20 tokens, s | ms a step after |\n|---|---|---|---|")
    for rows in args.batch:
        for way, (recorder, places) in ways.items():
            with (
                patch.object(hooked, "recorder_for", lambda device, chosen=recorder: chosen),
                patch.dict(positions.PLACES, cpu=places),
            ):
                first = seconds(model, rows, 20)
                short, long = (
                    min(seconds(model, rows, tokens) for _ in range(3))
                    for tokens in (20, 20 + args.tokens)
                )
            per_step = 1000 * (long - short) / args.tokens
            print(f"| {rows} | {way} | {first:.2f} | {per_step:.2f} |", flush=True)


if __name__ == "__main__":
    main()
