"""What the studied models take, from their configs alone: weights, cache, states, MI, H100 hours.

    python -m experiments.timings.sizes

Prints the tables of arithmetic in docs/scaling.md and docs/reproduce.md. Nothing is measured here
but the time of MI, and no model is run. A step of decoding is bounded by what it must read from
memory: the weights once, and the keys and values of its rows.
"""

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

GB = 1e9
ROOM, BANDWIDTH = 72e9, 3.35e12  # of an H100 of 80 GB, with room left; bytes per second, published
LONG = 10_000  # tokens of a long trace
BF16 = 2  # bytes


@dataclass(frozen=True)
class Size:
    """The numbers of a config that decide what a model takes.

    Attributes:
        layers: Number of blocks.
        d: Width of the residual stream.
        mlp: Width of the gated MLP, or of one expert.
        heads: Number of heads of queries.
        kv_heads: Number of heads of keys and values.
        head: Width of a head.
        vocabulary: Number of embeddings.
        tied: Whether the output layer is the embeddings.
        experts: Number of experts of a block; 1 for a dense model.
        expert_bits: Bits of an expert's weight, its share of a scale included.
    """

    layers: int
    d: int
    mlp: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int
    tied: bool = False
    experts: int = 1
    expert_bits: float = 8 * BF16

    @property
    def weights(self) -> float:
        """Bytes of the weights as published; norms, biases and routers are below a hundredth."""
        embeddings = (1 if self.tied else 2) * self.vocabulary * self.d
        attention = 2 * self.d * self.head * (self.heads + self.kv_heads)
        mlp = self.experts * 3 * self.d * self.mlp
        plain = embeddings + self.layers * attention
        return BF16 * plain + self.layers * mlp * self.expert_bits / 8

    @property
    def cache(self) -> int:
        """Bytes of keys and values per token, at every block, in bfloat16."""
        return 2 * BF16 * self.layers * self.kv_heads * self.head

    @property
    def states(self) -> int:
        """Bytes per token of the states of every block, in bfloat16."""
        return BF16 * self.layers * self.d

    def rows(self, tokens: int, devices: int = 1) -> int:
        """How many traces of so many tokens fit beside the weights on so many H100."""
        return max(0, int((devices * ROOM - self.weights) / (self.cache * tokens)))

    def hours(self, traces: int, tokens: int, devices: int = 1) -> tuple[int, float]:
        """Rows per batch, and hours of decoding at the bound; devices work one after another."""
        rows = min(traces, self.rows(tokens, devices))
        step = (self.weights + rows * tokens / 2 * self.cache) / BANDWIDTH
        return rows, traces * tokens / rows * step / 3600


MXFP4 = 4.25  # 4 bits, and 8 for every 32 of them
SIZES = {
    "R1-Distill-Qwen-1.5B": Size(28, 1536, 8960, 12, 2, 128, 151_936),
    "Qwen3-4B-Thinking": Size(36, 2560, 9728, 32, 8, 128, 151_936, tied=True),
    "R1-Distill-Qwen-7B": Size(28, 3584, 18_944, 28, 4, 128, 152_064),
    "Olmo-3-7B": Size(32, 4096, 11_008, 32, 32, 128, 100_278),
    "R1-Distill-Llama-8B": Size(32, 4096, 14_336, 32, 8, 128, 128_256),
    "R1-Distill-Qwen-14B": Size(48, 5120, 13_824, 40, 8, 128, 152_064),
    "gpt-oss-20b, MXFP4": Size(24, 2880, 2880, 64, 8, 64, 201_088, False, 32, MXFP4),
    "gpt-oss-20b, dequantised": Size(24, 2880, 2880, 64, 8, 64, 201_088, False, 32),
    "QwQ-32B, R1-Distill-Qwen-32B": Size(64, 5120, 27_648, 40, 8, 128, 152_064),
    "R1-Distill-Llama-70B": Size(80, 8192, 28_672, 64, 8, 128, 128_256),
}
# What docs/reproduce.md runs: model, traces, tokens at most.
STUDIES = {
    "MI, 100 problems": ("R1-Distill-Llama-8B", 100, 512),
    "MI, 100 problems ": ("QwQ-32B, R1-Distill-Qwen-32B", 100, 512),
    "suppression, MATH500, 5 conditions": ("R1-Distill-Llama-8B", 2500, 16_000),
    "suppression, GSM8K, 5 conditions": ("R1-Distill-Llama-8B", 6595, 16_000),
    "RR, AIME24, 4 conditions": ("R1-Distill-Llama-8B", 120, 16_000),
    "RR, MATH500, 4 conditions": ("R1-Distill-Llama-8B", 2000, 16_000),
    "RR, GSM8K, 4 conditions": ("R1-Distill-Llama-8B", 5276, 16_000),
    "TTTS, AIME24, 15 words": ("R1-Distill-Llama-8B", 450, 8_192),
    "SEAL, 2,500 traces of MATH train": ("R1-Distill-Qwen-1.5B", 2500, 10_000),
    "SEAL, MATH500, 4 conditions": ("R1-Distill-Qwen-1.5B", 2000, 10_000),
    "SEAL, GSM8K, 4 conditions": ("R1-Distill-Qwen-1.5B", 5276, 10_000),
    "MI at long traces, 100 problems": ("Qwen3-4B-Thinking", 100, 16_000),
    "MI at long traces, 100 problems ": ("gpt-oss-20b, dequantised", 100, 16_000),
    "MI at long traces, one of four stages": ("Olmo-3-7B", 100, 16_000),
}


def memory_table() -> list[str]:
    """The table of what models take, as lines of Markdown."""
    lines = [
        "| model | weights, GB | cache, kB per token | of 10,000 tokens, GB | such rows on 80 GB | "
        "states of 10,000 tokens, every block, GB |",
        "|---|---|---|---|---|---|",
    ]
    for name, size in SIZES.items():
        lines.append(
            f"| {name} | {size.weights / GB:.1f} | {size.cache / 1e3:.0f} | "
            f"{LONG * size.cache / GB:.2f} | {size.rows(LONG) or 'none'} | "
            f"{LONG * size.states / GB:.1f} |"
        )
    return lines


def hours_table() -> list[str]:
    """The table of hours at the bound, as lines of Markdown."""
    lines = [
        "| run | model | traces | tokens, at most | rows per batch | H100 hours, at the bound |",
        "|---|---|---|---|---|---|",
    ]
    for run, (model, traces, tokens) in STUDIES.items():
        rows, bound = SIZES[model].hours(traces, tokens)
        lines.append(
            f"| {run.strip()} | {model} | {traces:,} | {tokens:,} | {rows} | {bound:.2g} |"
        )
    return lines


def mi_microseconds(d: int, states: int = 256) -> float:
    """CPU time of MI per state and answer on one thread, with normal coordinates of sd 5."""
    from mi_lens.information.per_trace.hsic import hsic_mi

    draws = torch.Generator().manual_seed(0)
    held = 5 * torch.randn(states, d, generator=draws)
    times = []
    for _ in range(5):
        start = time.process_time()
        hsic_mi(held, held[-1])
        times.append(time.process_time() - start)
    return min(times) / states * 1e6


def mi_costs() -> dict[str, float]:
    """`mi_microseconds` at the width of every model, by the model's name."""
    by_width = {size.d: mi_microseconds(size.d) for size in SIZES.values()}
    return {name: by_width[size.d] for name, size in SIZES.items()}


def mi_table(costs: Mapping[str, float]) -> list[str]:
    """What MI takes, by `mi_costs`, as lines of Markdown."""
    lines = [
        "| model | d | MI per state, µs | 10,000 tokens, one block, s | every block, min |",
        "|---|---|---|---|---|",
    ]
    for name, cost in costs.items():
        size = SIZES[name]
        one = LONG * cost / 1e6
        lines.append(
            f"| {name} | {size.d} | {cost:.0f} | {one:.2g} | {one * size.layers / 60:.2g} |"
        )
    return lines


def main() -> None:
    """Prints the tables."""
    argparse.ArgumentParser(description="What the studied models take.").parse_args()
    torch.set_num_threads(1)
    for table in (memory_table(), hours_table(), mi_table(mi_costs())):
        print("\n".join(table), end="\n\n")


if __name__ == "__main__":
    main()
