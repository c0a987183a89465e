"""Bias of usable information at small n: estimated less true bits, for known channels.

python -m experiments.timings.information_bias --repeats 40 --sizes 50 100 200 500 1000
"""

from dataclasses import dataclass

import numpy as np
import torch
import tyro

from mi_lens.information.across_problems.known_channels import (
    bias_study,
    binary_channel,
    exclusive_or_channel,
    quantile_channel,
    table_channel,
)


@dataclass(frozen=True)
class Study:
    """What to measure.

    Attributes:
        repeats: Number of samples of every channel and size.
        sizes: Numbers of problems in a sample.
        threads: Number of CPU threads.
    """

    repeats: int = 40
    sizes: tuple[int, ...] = (50, 100, 200, 500, 1000)
    threads: int = 1


def main(study: Study) -> None:
    """Prints one line per channel and number of problems."""
    torch.set_num_threads(study.threads)
    table = np.random.default_rng(0).dirichlet(np.full(50, 0.3)).reshape(5, 10)
    channels = [
        binary_channel(0.0, dimensions=16),
        binary_channel(1.0),
        binary_channel(1.0, dimensions=128),
        quantile_channel(4, 0.9),
        quantile_channel(4, 0.9, dimensions=128),
        quantile_channel(10, 0.99),
        table_channel(table),
        exclusive_or_channel(),
    ]
    print(f"{'channel':44} {'n':>5} {'true':>6} {'bias':>7}  95 % interval      sd  coverage")
    for channel in channels:
        for row in bias_study([channel], study.sizes, repeats=study.repeats):
            print(
                f"{row.channel:44} {row.problems:5d} {row.truth:6.3f} {row.bias:+7.3f}  "
                f"[{row.low:+.3f}, {row.high:+.3f}] {row.spread:7.3f}  {row.coverage:8.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main(tyro.cli(Study))
