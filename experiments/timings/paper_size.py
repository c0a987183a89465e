"""Time and peak memory at the size of a paper's model, without its weights.

    python -m experiments.timings.paper_size --out paper_size.json

The script writes a random checkpoint with the config of R1-Distill-Qwen-1.5B (3.6 GB in bfloat16)
to a temporary folder. Each step then runs in a process of its own on this machine's CPU: loading,
decoding, reading states at every block, MI, steering at block 19, recycling at block 20. Times are
without loading; the peak is VmHWM of Linux, which counts the mapped files of weights too. What the
model writes means nothing. Then MI is timed at the widths of larger models.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from experiments.timings.memory import peak_mb
from experiments.timings.random_checkpoint import write_checkpoint
from experiments.timings.sizes import mi_costs, mi_table

# Of DeepSeek-R1-Distill-Qwen-1.5B's config.json.
CONFIG = {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
    "max_position_embeddings": 131_072,
    "rope_theta": 10_000,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
TOKENS = 151_665  # of its tokenizer: the other embeddings are padding
SHARD = 500e6  # bytes: at most so much of the checkpoint is in memory while it is written
QUESTION = "Calculate 37*48+15-9."


class Study:
    """What the steps share: the model and, once it was written, its trace."""

    def __init__(self, folder: Path, tokens: int, backend: str):
        self.folder, self.tokens, self.backend = folder, tokens, backend
        self.work = folder / "measured"

    def model(self) -> Any:
        """The checkpoint, loaded in its own dtype."""
        import mi_lens

        return mi_lens.load(self.folder, backend=self.backend, dtype="bfloat16", device="cpu")

    def write(self, model: Any, *interventions: Any) -> Any:
        """One trace of so many tokens."""
        import mi_lens

        model.eos_token_ids, model.tokenizer.eos_token = frozenset(), None  # no early end
        request = mi_lens.Request(
            QUESTION,
            mi_lens.Condition(interventions),
            max_new_tokens=self.tokens,
            stop=(-1,),  # no token
        )
        (trace,) = mi_lens.generate(model, [request], progress=False)
        return trace

    def trace(self) -> Any:
        """The trace of the step that decoded."""
        import mi_lens

        (trace,) = mi_lens.load_traces(self.work / "traces.jsonl")
        return trace


def load(study: Study) -> Callable[[], str]:
    """Loading, and one token, which reads every weight."""
    import mi_lens

    mi_lens.load("pocket-base", backend=study.backend, device="cpu")  # imports are no cost of it

    def run() -> str:
        study.tokens = 1
        study.write(study.model())
        return "and one token, which reads every weight"

    return run


def decode(study: Study) -> Callable[[], str]:
    """Greedy decoding of one trace."""
    import mi_lens

    model = study.model()

    def run() -> str:
        trace = study.write(model)
        study.work.mkdir()
        mi_lens.save_traces([trace], study.work / "traces.jsonl")
        return f"{len(trace)} tokens"

    return run


def capture(study: Study) -> Callable[[], str]:
    """The states of every block, to disk."""
    import mi_lens

    model, trace = study.model(), study.trace()

    def run() -> str:
        (path,) = mi_lens.capture_into(model, [trace], "blocks.*.hook_resid_post", study.work)
        return f"{path.stat().st_size / 1e6:.0f} MB of states on disk"

    return run


def mi(study: Study) -> Callable[[], str]:
    """MI of every block's states with the answer's, which the model reads first."""
    import mi_lens

    model, trace = study.model(), study.trace()
    problem = mi_lens.Problem("1", QUESTION, "1782", "37*48 = 1776. So it is 1782.")
    answer = mi_lens.answer_state(model, problem, "blocks.*.hook_resid_post")
    states = mi_lens.load_activations(study.work / f"{trace.id}.safetensors")

    def run() -> str:
        trajectories = mi_lens.mi_trajectories(states, answer)
        return f"{sum(map(len, trajectories))} states"

    return run


def steer(study: Study) -> Callable[[], str]:
    """A vector of SEAL's norm added to block 19's output at every token."""
    import torch

    import mi_lens

    model = study.model()
    vector = torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(0))
    layer = min(19, model.cfg.n_layers - 1)
    act = mi_lens.Steer(
        60 * vector / vector.norm(), f"blocks.{layer}.hook_resid_post", at="all", inside_think=False
    )
    return lambda: f"{len(study.write(model, act))} tokens, block {layer}"


def recycle(study: Study) -> Callable[[], str]:
    """Block 20 run again where the trace was about to write one of half of its own tokens."""
    import mi_lens

    model, trace = study.model(), study.trace()
    layer = min(20, model.cfg.n_layers - 1)
    written = list(dict.fromkeys(trace.token_ids))
    act = mi_lens.Recycle(layer, written[: max(1, len(written) // 2)])

    def run() -> str:
        recycled = study.write(model, act)
        return f"{len(recycled)} tokens, block {layer}, recycled at {len(recycled.events)}"

    return run


STEPS = {
    "load": load,
    "decode": decode,
    "capture at every block": capture,
    "MI at every block": mi,
    "steer": steer,
    "recycle": recycle,
}


def in_a_fresh_process(folder: Path, step: str, tokens: int, threads: int, backend: str) -> Any:
    """A step's seconds, peak in GB and what it did, in a process of its own."""
    command = [sys.executable, "-m", "experiments.timings.paper_size", "--folder", str(folder)]
    command += ["--step", step, "--tokens", str(tokens), "--threads", str(threads)]
    finished = subprocess.run(
        [*command, "--backend", backend], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(finished.stdout.splitlines()[-1])


def measured_here(folder: Path, step: str, tokens: int, threads: int, backend: str) -> Any:
    """The same, in this process."""
    import torch

    torch.set_num_threads(threads)
    run = STEPS[step](Study(folder, tokens, backend))
    start, worked = time.perf_counter(), time.process_time()
    what = run()
    return {
        "step": step,
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - worked,
        "peak_gb": peak_mb() / 1e3,
        "what": what,
    }


def measure(
    config: dict[str, Any], vocabulary: int, tokens: int, threads: int, backend: str
) -> dict[str, Any]:
    """All steps on a random checkpoint of this config, which is removed afterwards."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_checkpoint(folder, config, vocabulary, SHARD)
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        steps = []
        for step in STEPS:
            steps.append(in_a_fresh_process(folder, step, tokens, threads, backend))
            print(json.dumps(steps[-1]), file=sys.stderr)
    packages = {name: version(name) for name in ("torch", "transformers", "transformer-lens")}
    return {
        "config": config,
        "checkpoint_gb": size / 1e9,
        "backend": backend,
        "threads": threads,
        "cores": os.cpu_count(),
        "processor": platform.machine(),
        "versions": packages,
        "steps": steps,
        "mi_microseconds": mi_costs(),
    }


def table(record: dict[str, Any]) -> str:
    """The record as a table of Markdown."""
    lines = ["| step | seconds | CPU seconds | peak memory, GB | |", "|---|---|---|---|---|"]
    for step in record["steps"]:
        times = f"{step['seconds']:.3g} | {step['cpu_seconds']:.3g}"
        lines.append(f"| {step['step']} | {times} | {step['peak_gb']:.1f} | {step['what']} |")
    return "\n".join(lines)


def main() -> None:
    """Prints the table and writes the record; with --step, measures one step."""
    parser = argparse.ArgumentParser(description="Time and memory at the size of a paper's model.")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--backend", default="hooked", choices=["hooked", "bridge"])
    parser.add_argument("--out", type=Path, default=Path("paper_size.json"))
    parser.add_argument("--step", choices=[*STEPS])
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    if args.step:
        run = args.folder, args.step, args.tokens, args.threads, args.backend
        print(json.dumps(measured_here(*run)))
        return
    record = measure(CONFIG, TOKENS, args.tokens, args.threads, args.backend)
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(table(record), "\n".join(mi_table(record["mi_microseconds"])), sep="\n\n")


if __name__ == "__main__":
    main()
