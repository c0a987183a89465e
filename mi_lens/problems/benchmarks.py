"""Benchmarks by name: where the hub keeps them, and rows of problems from wherever they are."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mi_lens.common.files import read_jsonl

MATH_SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
LIVECODEBENCH = "hf://datasets/livecodebench/code_generation_lite/"


@dataclass(frozen=True)
class Benchmark:
    """Where the hub keeps a benchmark.

    Attributes:
        path: A dataset's id, or "json" with `files` for one that is loaded by its files.
        splits: Our name of a split -> the dataset's.
        configs: Parts to put one after the other; None is the dataset's only one.
        files: Addresses of JSON-lines files.
    """

    path: str
    splits: dict[str, str]
    configs: tuple[str | None, ...] = (None,)
    files: tuple[str, ...] = ()


BENCHMARKS = {
    "gsm8k": Benchmark("openai/gsm8k", {"train": "train", "test": "test"}, ("main",)),
    "math500": Benchmark("HuggingFaceH4/MATH-500", {"test": "test"}),
    "math-train": Benchmark("EleutherAI/hendrycks_math", {"train": "train"}, MATH_SUBJECTS),
    "aime24": Benchmark("HuggingFaceH4/aime_2024", {"test": "train"}),
    "aime25": Benchmark("math-ai/aime25", {"test": "test"}),
    # Its loading script runs no more (datasets 4); the files of release_v1 and of release_v5.
    "livecodebench": Benchmark("json", {"test": "train"}, files=(f"{LIVECODEBENCH}test.jsonl",)),
    "livecodebench-v5": Benchmark(
        "json",
        {"test": "train"},
        files=tuple(f"{LIVECODEBENCH}test{n}.jsonl" for n in ("", 2, 3, 4, 5)),
    ),
}


def hub_rows(name: str, split: str) -> Iterator[dict[str, Any]]:
    """The rows of a benchmark, downloaded by `datasets` where they are not in its cache.

    Raises:
        ValueError: If the benchmark has no such split.
    """
    benchmark = BENCHMARKS[name]
    if split not in benchmark.splits:
        raise ValueError(
            f"benchmark {name}: split {split!r}, expected one of {sorted(benchmark.splits)}"
        )
    load_dataset = _datasets().load_dataset
    files = {"data_files": list(benchmark.files)} if benchmark.files else {}
    for config in benchmark.configs:
        yield from load_dataset(benchmark.path, config, split=benchmark.splits[split], **files)


def local_rows(path: Path, split: str) -> Iterator[dict[str, Any]]:
    """The rows of a file by its ending, or a split of a dataset's folder.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    if path.is_dir():
        yield from _datasets().load_dataset(str(path), split=split)
    elif not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; expected a file or folder of problems, 'pocket', or one of "
            f"{sorted(BENCHMARKS)}"
        )
    elif path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                yield {name: value or None for name, value in row.items() if name is not None}
    elif path.suffix == ".parquet":
        from pyarrow import parquet

        yield from parquet.read_table(path).to_pylist()
    else:
        yield from read_jsonl(path)


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise ImportError(
            "benchmarks from the hub need `datasets`: pip install 'mi-lens[hub]', or give the path "
            "of a local file"
        ) from None
    return datasets
