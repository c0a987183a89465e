"""Times the product of few rows with a large matrix on a CPU, in both orders.

    OMP_NUM_THREADS=1 python -m experiments.timings.few_rows

The shapes are those of Qwen2.5-0.5B in float32. `mi_lens.models.backends.fused.linear` takes the
second order for 5 to 32 rows. The ratio of the two is what counts: both run in turn.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional

SHAPES = {"unembedding": (151_936, 896), "gate and up": (9728, 896), "down": (896, 4864)}
ROWS, REPEATS = (1, 2, 4, 5, 8, 16, 32, 64), 5


def seconds(runs: list[Callable[[], object]]) -> list[float]:
    """Median CPU time of each of several runs, which take turns."""
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(REPEATS):
        for run, of_run in zip(runs, times, strict=True):
            start = time.process_time()
            run()
            of_run.append(time.process_time() - start)
    return list(map(statistics.median, times))


@torch.inference_mode()
def main() -> None:
    """Prints a row for each shape and number of rows."""
    print("| product | rows | rows by matrix, ms | matrix by columns, ms | ratio |")
    print("|---|---|---|---|---|")
    for name, shape in SHAPES.items():
        weight = torch.randn(shape)
        for rows in ROWS:
            x = torch.randn(rows, shape[1])
            runs: list[Callable[[], object]] = [
                lambda x=x, weight=weight: functional.linear(x, weight),
                lambda x=x, weight=weight: (weight @ x.T).T.contiguous(),
            ]
            usual, turned = seconds(runs)
            cells = f"{1000 * usual:.2f} | {1000 * turned:.2f} | {usual / turned:.2f}"
            print(f"| {name} | {rows} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
