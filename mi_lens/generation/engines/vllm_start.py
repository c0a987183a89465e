"""Starts vLLM for our loop, or says why it cannot be started."""

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import connection
from pathlib import Path
from typing import Any

import torch

from mi_lens.common.provenance import code_hash
from mi_lens.generation.engines.vllm_worker.wire import BEGAN_BY, KEY, LOAD_FORMAT
from mi_lens.models.hook_names import RESIDUAL
from mi_lens.models.placement import default_dtype, parse_dtype
from mi_lens.models.quantization import quantization_of

EXTENSION = "mi_lens.generation.engines.vllm_worker.extension.WorkerExtension"
TESTED = "0.32"  # The versions of vLLM whose insides `vllm_worker` knows.
# What would change tokens behind our back, or run what our loop does not see.
REFUSED = {
    "async_scheduling": "a step must know the token of the step before",
    "enable_dbo": "a step must be one batch",
    "enable_lora": "adapters change layers that may run again",
    "speculative_config": "drafted tokens are read before anything may act on them",
    "worker_extension_cls": "this engine has its own",
}
# What has to be 1: our loop asks one group of workers, each with every position of a text.
SINGLE = ("data_parallel_size", "decode_context_parallel_size", "prefill_context_parallel_size")
CPU_CACHE = 2**30  # Bytes of the cache on a CPU, where vLLM would take most of the memory.


def tested_vllm() -> Any:
    """The module `vllm`.

    Raises:
        ImportError: If it is not installed.
        ValueError: If its version, or what the environment asks of it, was not tested.
    """
    try:
        import vllm  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ImportError(
            "vLLM is not installed; pip install vllm, or use another engine"
        ) from None
    if not vllm.__version__.startswith(f"{TESTED}."):
        raise ValueError(
            f"vLLM {vllm.__version__} is installed, and interventions reach into its workers, "
            f"whose insides change; expected {TESTED}.x: pip install 'vllm=={TESTED}.*'"
        )
    if os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0") not in ("0", "false"):
        raise ValueError("VLLM_USE_V2_MODEL_RUNNER is set; interventions need the first one: unset")
    return vllm


def placed(
    found: Any, dtype: torch.dtype | str | None, device: torch.device | str | None
) -> tuple[str, torch.dtype, str | None]:
    """The kind of device and the dtype in which a checkpoint runs, and how it is quantised.

    Args:
        found: The checkpoint, opened.
        dtype: What was asked for; see `mi_lens.load`.
        device: What was asked for.

    Raises:
        ValueError: If vLLM cannot run it so.
    """
    from vllm.platforms import current_platform  # pyright: ignore[reportMissingImports]

    if found.path.is_file():
        raise ValueError(
            f"{found.path}: vLLM is given folders of safetensors here, not GGUF files; load it "
            "with mi_lens.load, or write it to a folder first"
        )
    own = current_platform.device_type
    if device is not None and torch.device(device).type != own:
        raise ValueError(
            f"device={str(device)!r}: the installed vLLM runs on {own!r}; leave the device out, "
            "or install the build for yours"
        )
    settings = found.settings()
    wanted = default_dtype(settings, torch.device(own)) if dtype is None else parse_dtype(dtype)
    if wanted == torch.float64:
        raise ValueError("dtype='float64': vLLM has no kernels for it; expected 'float32'")
    return own, wanted, quantization_of(found.config_file, settings)


def require_options(options: Mapping[str, Any]) -> None:
    """Raises a ValueError if an option of `vllm.LLM` would break what our loop promises."""
    for name, reason in REFUSED.items():
        if options.get(name):
            raise ValueError(f"{name}={options[name]!r}: {reason}; leave it out")
    for name in SINGLE:
        if options.get(name, 1) != 1:
            raise ValueError(
                f"{name}={options[name]!r}: expected 1; use tensor_parallel_size for a larger "
                "model, and the workers of a sweep for more devices"
            )


def started(
    vllm: Any, path: Path, dtype: str, hook_names: Sequence[str] | None, options: Mapping[str, Any]
) -> Any:
    """A `vllm.LLM` of a checkpoint.

    Args:
        vllm: The module.
        path: The checkpoint's folder.
        dtype: By its name.
        hook_names: Where a compiled model is to be watched; None does not compile it.
        options: Further arguments of `vllm.LLM`.

    Raises:
        ValueError: If it cannot start, or the model reads more than text.
    """
    arguments = {
        "enforce_eager": True,
        "worker_extension_cls": EXTENSION,
        **options,
        "model": str(path),
        "dtype": dtype,
        "async_scheduling": False,
        "trust_remote_code": False,
    }
    if hook_names is not None:
        arguments |= _compiled(hook_names, options)
    config = vllm.EngineArgs(**arguments).create_model_config()
    if config.is_multimodal_model:
        raise ValueError(
            f"{path}: a model of text with images or sound ({config.architecture}); expected a "
            "language model"
        )
    try:
        with _begun_here():
            llm = vllm.LLM(**arguments)
        _fail_when_ended(llm.llm_engine.engine_core)
        return llm
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"vLLM did not start with {path}, max_model_len={options.get('max_model_len')}: "
            f"{error}. If its messages above speak of too little memory for the cache, give a "
            "smaller max_model_len, or more by kv_cache_memory_bytes or gpu_memory_utilization"
        ) from error


@contextmanager
def _begun_here() -> Iterator[None]:
    """Inside, processes that begin end with this one, if they are workers of ours."""
    os.environ[BEGAN_BY] = str(os.getpid())
    try:
        yield
    finally:
        del os.environ[BEGAN_BY]


def _fail_when_ended(client: Any) -> None:
    """Lets everything that waits for vLLM's processes fail once one of them has ended.

    vLLM lets a caller wait for ever for the answer of a process that was killed.
    """
    manager = getattr(getattr(client, "resources", None), "engine_manager", None)
    if manager is None:  # vLLM runs in this process.
        return
    ends = [process.sentinel for process in manager.processes]
    waiting, answers = client.outputs_queue, client.utility_results

    def fail() -> None:
        from vllm.v1.engine.exceptions import (  # pyright: ignore[reportMissingImports]
            EngineDeadError,
        )

        connection.wait(ends)
        waiting.put_nowait(EngineDeadError())
        for answer in list(answers.values()):
            if not answer.done():
                answer.set_exception(EngineDeadError())

    threading.Thread(target=fail, daemon=True).start()


def _compiled(hook_names: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with which vLLM compiles a model, and leaves out what watches its layers."""
    from vllm.config import CompilationConfig  # pyright: ignore[reportMissingImports]

    compilation = dict(options.get("compilation_config") or {})
    if hook_names:
        # Python runs between the pieces of CUDA graphs, never inside of one.
        compilation["splitting_ops"] = [*CompilationConfig._attention_ops, f"{KEY}::act"]
        compilation["cudagraph_mode"] = "PIECEWISE"
    # vLLM keeps what it compiled by a hash of its settings, which must say what of ours is in it.
    watched = {"layers": watched_layers(hook_names), "code": code_hash("generation/engines")}
    return {
        "enforce_eager": False,
        "load_format": LOAD_FORMAT,
        "compilation_config": compilation,
        "additional_config": {KEY: watched},
    }


def watched_layers(hook_names: Sequence[str]) -> list[int]:
    """The layers at which hook names of the residual stream lie.

    Raises:
        ValueError: If a hook name is another.
    """
    layers = set()
    for name in hook_names:
        match = RESIDUAL.fullmatch(name)
        if match is None:
            raise ValueError(
                f"hook name {name!r}: on vLLM only the residual stream between blocks can be "
                "reached: a hook_resid_post or hook_resid_pre"
            )
        layers.add(int(match[1]))
    return sorted(layers)
