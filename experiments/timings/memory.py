"""Peak memory of reading a long trace's states at every layer, in memory or streamed to disk.

    python -m experiments.timings.memory

A random Llama of 16 layers and 256 dimensions reads one trace of 16,000 tokens at every
hook_resid_post. Each way runs in a fresh process; the peak is VmHWM of the Linux kernel.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path


def peak_mb() -> float:
    """This process's peak resident memory, in MB, since `forget_peak` or its start."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 1e3


def forget_peak() -> None:
    """Resets the peak to the present use of memory."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def growth_mb(way: str, layers: int, tokens: int, hooks: int) -> float:
    """MB that reading the first `hooks` layers adds to the peak of this process."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from mi_lens.models.backends.lookup import get_backend
    from mi_lens.states.capture import capture
    from mi_lens.states.capture_to_disk import capture_into
    from mi_lens.traces.trace import Trace

    torch.set_num_threads(1)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=256,
        intermediate_size=256,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=tokens + 16,
    )
    model = get_backend("hooked").build(LlamaForCausalLM(config), None)
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(hooks)]
    trace = Trace("long", "m", "p", (1,), tuple(i % 64 for i in range(tokens)), "", "length")
    short = Trace("short", "m", "p", (1,), (2, 3), "", "length")
    with tempfile.TemporaryDirectory() as folder:
        capture_into(model, [short], names, folder)  # Work that is done only once does not count.
        forget_peak()
        before = peak_mb()
        if way == "streamed":
            capture_into(model, [trace], names, folder)
        else:
            capture(model, [trace], names)
        return peak_mb() - before


def in_a_fresh_process(way: str, layers: int, tokens: int, hooks: int) -> float:
    """`growth_mb` in a fresh process."""
    command = [sys.executable, "-m", "experiments.timings.memory", "--way", way]
    command += ["--layers", str(layers), "--tokens", str(tokens), "--hooks", str(hooks)]
    finished = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(finished.stdout)


def main() -> None:
    """Prints the peaks of both ways, or the number of one way."""
    parser = argparse.ArgumentParser(description="Peak memory of reading states.")
    parser.add_argument("--way", choices=["streamed", "in memory"])
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=16_000)
    parser.add_argument("--hooks", type=int, default=16)
    args = parser.parse_args()
    if args.way:
        print(growth_mb(args.way, args.layers, args.tokens, args.hooks))
        return
    states = args.layers * args.tokens * 256 * 4 / 1e6
    cache = 2 * args.layers * args.tokens * 16 * 4 / 1e6
    print(f"states of all layers {states:.0f} MB, key-value cache {cache:.0f} MB")
    for way in ("in memory", "streamed"):
        for hooks in (1, args.layers):
            peak = in_a_fresh_process(way, args.layers, args.tokens, hooks)
            print(f"{way}, {hooks} hook names: peak {peak:.0f} MB above the model")


if __name__ == "__main__":
    main()
