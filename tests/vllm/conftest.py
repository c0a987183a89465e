"""Engines on vLLM, each made once for all tests that want its options."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Before vLLM is imported. In this process it starts in a tenth of the time, and its code is the
# same; tests of its processes start it in others.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
# Each of two pytest processes would bind itself to the same core.
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")

# Heads are as wide as vLLM's kernels for CPUs want them.
WIDE = {"hidden_size": 64, "head_dim": 32}


# Raised by vLLM, or by torch where vLLM imports it; nothing of ours can mend them.
WARNINGS = (
    "ignore:`torch.jit.script:DeprecationWarning",
    "ignore:Unclosed context <zmq:ResourceWarning",
    "ignore::FutureWarning:vllm.*",
    "ignore::DeprecationWarning:vllm.*",
    "ignore::UserWarning:vllm.*",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Lets pass what vLLM warns of."""
    for item in items:
        if item.get_closest_marker("vllm"):
            for warning in WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(warning))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Callable[..., Path]:
    """`tiny("llama", max_position_embeddings=512)` is a checkpoint that vLLM can run."""
    from tests.conftest import save_checkpoint

    def folder(architecture: str, **changes: Any) -> Path:
        path = tmp_path_factory.mktemp(architecture)
        return save_checkpoint(path, architecture, tokenizer, **(WIDE | changes))

    return folder


@pytest.fixture(scope="module")
def engine() -> Iterator[Callable[..., Any]]:
    """`engine(checkpoint, max_num_seqs=4)` is an engine; the one before is closed."""
    from mi_lens.generation.engines.lookup import load_engine

    held: dict[str, Any] = {}

    def make(checkpoint: str | Path, **options: Any) -> Any:
        key = repr((checkpoint, sorted(options.items())))
        if key not in held:
            for other in held.values():
                other.close()
            held.clear()
            held[key] = load_engine(checkpoint, "vllm", dtype="float32", **options)
        return held[key]

    yield make
    for other in held.values():
        other.close()
