"""ENGINES by name, and the engine of what is given to generate on."""

import importlib
from pathlib import Path
from typing import Any

from mi_lens.generation.engines.protocol import Engine
from mi_lens.generation.engines.transformer_lens import TransformerLensEngine
from mi_lens.models.attached_hooks import FwdHooks, UserHooks
from mi_lens.models.model import Model
from mi_lens.problems.think_kinds import AUTO

# Name -> the module, and what makes an engine of a checkpoint there.
ENGINES = {
    "transformer_lens": "mi_lens.generation.engines.transformer_lens:load_transformer_lens",
    "huggingface": "mi_lens.generation.engines.hugging_face:HuggingFaceEngine",
    "vllm": "mi_lens.generation.engines.vllm_engine:VLLMEngine",
}


def load_engine(
    name: str | Path,
    engine: str = "vllm",
    *,
    dtype: Any = None,
    device: Any = None,
    think: str = AUTO,
    **options: Any,
) -> Engine:
    """An engine with a model, to be given to `generate` and `evaluate` in the model's place.

    Args:
        name: The model; see `mi_lens.load`.
        engine: "vllm"; "huggingface", greedy baselines by Hugging Face's generate; or
            "transformer_lens", this package's own loop.
        dtype: See `mi_lens.load`.
        device: See `mi_lens.load`.
        think: See `mi_lens.load`.
        **options: The engine's own: those of `vllm.LLM`, of Hugging Face's from_pretrained, or of
            `mi_lens.load`.

    Returns:
        The engine; its `close()` frees what it holds.

    Raises:
        ValueError: If there is no such engine, it does not know an option, or it cannot run the
            model.
        ImportError: If the engine's package is not installed.
        FileNotFoundError, OSError: For the reasons of `mi_lens.load`.
    """
    make = maker_of(engine)
    try:
        return make(name, dtype=dtype, device=device, think=think, **options)
    except TypeError as error:
        if not options:
            raise
        raise ValueError(
            f"engine {engine!r} with the options {options}: {error}; leave out what it does not "
            "know"
        ) from error


def maker_of(engine: str) -> Any:
    """What makes an engine of this name; a class that can be asked what it refuses, if not ours.

    Raises:
        ValueError: If there is no such engine.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine {engine!r} does not exist; choose one of {list(ENGINES)}")
    module, _, name = ENGINES[engine].partition(":")
    return getattr(importlib.import_module(module), name)


def engine_of(model: Model | Engine) -> Engine:
    """An engine itself; for a HookedTransformer or TransformerBridge, our own loop on it."""
    return engine_and_hooks(model)[0]


def engine_and_hooks(
    model: Model | Engine, fwd_hooks: FwdHooks = (), hooks_named: str = ""
) -> tuple[Engine, UserHooks]:
    """The engine of what is given to generate on, and the user's hooks under which it runs.

    Raises:
        ValueError: For the reasons of `TransformerLensEngine`; or if there are hooks and the
            engine is another.
    """
    if isinstance(model, TransformerLensEngine) and (fwd_hooks or hooks_named):
        model, fwd_hooks = model.model, [*model.hooks.fwd_hooks, *fwd_hooks]
    if isinstance(model, Model):
        model = TransformerLensEngine(model, fwd_hooks, hooks_named)
    if isinstance(model, TransformerLensEngine):
        return model, model.hooks
    hooks = UserHooks(model.model)
    if fwd_hooks or hooks_named or hooks.record:
        given = f"hooks_named={hooks_named!r}" if hooks_named else "fwd_hooks or hooks on its model"
        raise ValueError(
            f"{given}: the engine {model.name} runs no hooks of TransformerLens; leave them out, "
            "or give the model that mi_lens.load makes"
        )
    return model, hooks
