"""Times hsic_mi, beside the published evaluation and beside reading the input once.

    python -m experiments.timings.hsic --device cpu

All times are from one process and the same threads. With a single CPU thread (OMP_NUM_THREADS=1)
the clock is the CPU time of the process, which other work disturbs least. The published evaluation
is the reference arithmetic for one step: float32, distances as a^2 - 2ab + b^2, two d x d inverses,
and the answer's half computed again.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from mi_lens.information.per_trace.hsic import hsic_mi
from mi_lens.information.per_trace.trajectories import mi_trajectories

SIGMA, EPS = 50.0, 1e-5


def published(x: Tensor, y: Tensor) -> Tensor:
    """MI of one step by dense matrices, as published."""
    d = len(x)
    eye = torch.eye(d, device=x.device)

    def normalised(vector: Tensor) -> Tensor:
        gaps = vector[:, None] ** 2 - 2 * vector[:, None] * vector + vector**2
        kernel = torch.exp(-gaps / (2 * SIGMA**2)) @ (eye - 1 / d)
        return kernel @ torch.linalg.inv(kernel + EPS * d * eye)

    return (normalised(x) * normalised(y).T).sum()


def clock_for(device: str) -> Callable[[], float]:
    """CPU time where one thread does all the work, wall time elsewhere."""
    alone = device == "cpu" and torch.get_num_threads() == 1
    return time.process_time if alone else time.perf_counter


def seconds(run: Callable[[], object], repeats: int, device: str) -> float:
    """Median time of a run."""
    clock = clock_for(device)
    times = []
    for _ in range(repeats):
        start = clock()
        run()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(clock() - start)
    return statistics.median(times)


def peak_growth(run: Callable[[], object], device: str) -> float:
    """MB that a run adds to the peak of memory."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10


def with_far_coordinates(states: Tensor, count: int) -> Tensor:
    """States with `count` coordinates of size 100 to 10,000, at random places of each state."""
    places = torch.rand(states.shape, device=states.device).topk(count, dim=-1).indices
    sizes = torch.empty(places.shape, device=states.device).uniform_(100, 10_000)
    return states.scatter(-1, places, sizes * torch.randn_like(sizes).sign())


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="How fast hsic_mi is.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--d", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=512)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--answers", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()

    torch.manual_seed(0)
    device, steps = args.device, args.steps
    states = 3 * torch.randn(steps, args.d, device=device)
    answers = 3 * torch.randn(args.answers, args.d, device=device)
    far = with_far_coordinates(torch.cat([states, answers[:1]]), 10)

    one_case, many_case = "one answer, float32", f"{args.answers} answers"
    cases = {
        one_case: (states, answers[0]),
        "one answer, bfloat16": (states.bfloat16(), answers[0].bfloat16()),
        "ten coordinates of 100 to 10,000": (far[:-1], far[-1]),
        "wide: standard deviation 40": (states * 13, answers[0] * 13),
        many_case: (states, answers),
    }

    growth = peak_growth(lambda: hsic_mi(*cases[one_case]), device)
    published(states[0, :64], answers[0, :64])
    dense = seconds(lambda: published(states[0], answers[0]), 1, device)
    reading = seconds(lambda: (states.amax(), states.sum()), args.repeats, device) / steps
    clock = clock_for(device).__name__
    print(f"d = {args.d}, {steps} steps, {device}, {torch.get_num_threads()} threads, {clock}\n")
    print(f"{'':34} {'us a step':>12} {'published / it':>16} {'it / reading':>14}")

    def show(name: str, value: float) -> None:
        ratios = f"{dense / value:16,.0f} {value / reading:14,.0f}"
        print(f"{name:34} {value * 1e6:12.2f} {ratios}", flush=True)

    show("published (one step timed)", dense)
    show("reading: amax and sum", reading)
    times = {}
    for name, pair in cases.items():
        times[name] = seconds(lambda pair=pair: hsic_mi(*pair), args.repeats, device) / steps
        show(name, times[name])

    hooks = [f"blocks.{layer}.hook_resid_post" for layer in range(args.layers)]
    trace = {hook: states.bfloat16() for hook in hooks}
    gold = dict.fromkeys(hooks, answers[0].bfloat16())
    model = seconds(lambda: mi_trajectories(trace, gold), 1, device)
    print(f"\nwhole-model map, {args.layers} layers x {steps} steps, bfloat16: {model:.2f} s")
    print(f"{args.answers} answers cost {times[many_case] / times[one_case]:.1f} times one")
    print(f"peak memory of one answer, beyond the input: {growth:.0f} MB")


if __name__ == "__main__":
    main()
