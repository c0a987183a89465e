"""Benchmarks by name, shipped problems, and the rows of problems in a file or a folder."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mi_lens.common.files import read_jsonl, read_utf8
from mi_lens.common.parquet import read_table

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
    """Where the Hugging Face hub keeps a benchmark.

    Attributes:
        path: The dataset's id; "json" for a dataset that is loaded from `files`.
        splits: Our name of each split -> the dataset's name of it.
        configs: The dataset's configurations, whose rows are joined in this order; None for a
            dataset with only one.
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
    # The files of release_v1 and release_v5: `datasets` 4 no longer runs the loading script.
    "livecodebench": Benchmark("json", {"test": "train"}, files=(f"{LIVECODEBENCH}test.jsonl",)),
    "livecodebench-v5": Benchmark(
        "json",
        {"test": "train"},
        files=tuple(f"{LIVECODEBENCH}test{n}.jsonl" for n in ("", 2, 3, 4, 5)),
    ),
}
# Our own problems, each with a worked solution; they are a test split. grade-school: 20 word
# problems of one to three steps, easy enough that a model of 135M parameters gets a part right.
SHIPPED = {"grade-school": Path(__file__).with_name("grade_school.jsonl")}


def shipped_rows(name: str, split: str) -> Iterator[dict[str, Any]]:
    """The rows of problems that the package ships.

    Raises:
        ValueError: If another split than "test" is asked for.
    """
    if split != "test":
        raise ValueError(f"problems {name}: split {split!r}, expected 'test', the only one")
    return local_rows(SHIPPED[name], split)


def hub_rows(name: str, split: str) -> Iterator[dict[str, Any]]:
    """The rows of a benchmark; `datasets` downloads them unless they are in its cache.

    Raises:
        ValueError: If the benchmark has no such split.
        ImportError: If `datasets` is not installed.
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
    """The rows of a file, or of one split of a folder that `datasets` loads.

    A file is read as CSV or Parquet if its name ends so, and as JSON lines otherwise.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ImportError: If a folder is given and `datasets` is not installed.
        ValueError: If the file is not what its name says, or not in UTF-8.
    """
    if path.is_dir():
        load_dataset = _datasets().load_dataset
        try:
            rows = load_dataset(str(path), split=split)
        except Exception as error:  # of many kinds, most without the folder's name
            raise ValueError(
                f"{path}: a folder whose problems `datasets` cannot load ({error}); expected one "
                f"with data of the split {split!r}, or give a file of problems"
            ) from error
        yield from rows
    elif not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; expected a file or folder of problems, 'pocket', or one of "
            f"{sorted([*SHIPPED, *BENCHMARKS])}"
        )
    elif path.suffix == ".csv":
        # Spreadsheets begin a file with a byte-order mark, which is no part of a column's name.
        text = read_utf8(path, "utf-8-sig")
        csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # solutions may be long
        for row in csv.DictReader(io.StringIO(text, newline="")):
            yield {name: value or None for name, value in row.items() if name is not None}
    elif path.suffix == ".parquet":
        yield from read_table(path)
    else:
        yield from read_jsonl(path)


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise ImportError(
            "benchmarks from the hub and folders need `datasets`: pip install 'mi-lens[hub]', or "
            "give the path of a local file"
        ) from None
    return datasets
