"""Peak memory of the host while a checkpoint is loaded and run once, relative to its size.

    python -m experiments.timings.loading

The script writes random Qwen2 checkpoints of about 1 GB to a temporary folder, in shards of 200 MB,
in float32 and bfloat16. It loads each in a fresh process, by both backends and in both dtypes. It
needs Linux.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from experiments.timings.memory import forget_peak, peak_mb


def make_checkpoint(folder: Path, layers: int, dtype: str, shard: str) -> None:
    """Saves a random Qwen2; in float32 a layer takes 67 MB and the embeddings take 65 MB."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    config = Qwen2Config(
        vocab_size=16_000,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=32_768,
        tie_word_embeddings=True,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    model.save_pretrained(folder, max_shard_size=shard)


def growth_mb(folder: Path, backend: str, dtype: str) -> float:
    """MB that loading and one forward pass, which reads every weight, add to the process's peak."""
    import torch
    import transformers.models.qwen2.modeling_qwen2  # noqa: F401

    from mi_lens.models.backends.lookup import get_backend
    from mi_lens.models.loading import load

    torch.set_num_threads(1)
    engine = get_backend(backend)
    tokens = torch.arange(8)[None]

    def load_and_run(name: str | Path) -> None:
        model = load(name, backend=backend, dtype=dtype, device="cpu")
        with torch.no_grad():
            engine.forward(model, tokens, torch.ones_like(tokens))

    load_and_run("pocket-base")  # What is imported on the way is no cost of a checkpoint.
    forget_peak()
    before = peak_mb()
    load_and_run(folder)
    return peak_mb() - before


def in_a_fresh_process(folder: Path, backend: str, dtype: str) -> float:
    """`growth_mb` in a fresh process."""
    command = [sys.executable, "-m", "experiments.timings.loading", "--folder", str(folder)]
    command += ["--backend", backend, "--dtype", dtype]
    finished = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(finished.stdout.splitlines()[-1])


def size_mb(folder: Path) -> float:
    """Size of the weights on disk, in MB."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e6


def main() -> None:
    """Prints a table, or the number of one folder."""
    parser = argparse.ArgumentParser(description="Peak memory of loading.")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--backend", default="hooked")
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args()
    if args.folder:
        print(growth_mb(args.folder, args.backend, args.dtype))
        return
    for stored, layers in (("float32", 15), ("bfloat16", 30)):
        with tempfile.TemporaryDirectory() as folder:
            make_checkpoint(Path(folder), layers, stored, "200MB")
            size = size_mb(Path(folder))
            for backend in ("hooked", "bridge"):
                for dtype in ("float32", "bfloat16"):
                    peak = in_a_fresh_process(Path(folder), backend, dtype)
                    print(
                        f"{stored} {size:.0f} MB as {dtype}, {backend}: peak {peak:.0f} MB, "
                        f"{peak / size:.2f} of the checkpoint"
                    )


if __name__ == "__main__":
    main()
