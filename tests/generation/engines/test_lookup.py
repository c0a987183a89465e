from typing import Any, get_args, get_type_hints

import pytest

from mi_lens.generation.engines.lookup import ENGINES, engine_of, load_engine
from mi_lens.generation.generate import generate
from mi_lens.models.fingerprint import model_fingerprint
from mi_lens.models.loading import load
from mi_lens.runs.settings import RunSettings


def test_the_command_line_has_every_engine():
    assert get_args(get_type_hints(RunSettings)["engine"]) == tuple(ENGINES)


def test_our_own_loop_by_name(checkpoint):
    folder = str(checkpoint("llama"))
    settings: dict[str, Any] = {
        "backend": "bridge",
        "dtype": "float64",
        "device": "cpu",
        "think": "none",
    }
    engine = load_engine(folder, "transformer_lens", **settings)
    model = load(folder, **settings)
    assert (engine.name, engine.dtype, engine.device) == (
        "mi_lens, TransformerBridge",
        "float64",
        "cpu",
    )
    assert engine.fingerprint == model_fingerprint(model)
    assert engine_of(engine) is engine
    assert engine_of(model).model is model


def test_options_reach_the_engine(checkpoint):
    engine = load_engine(
        checkpoint("llama"), "huggingface", device="cpu", attn_implementation="eager"
    )
    assert engine.name.endswith(", attn_implementation='eager'")
    assert len(generate(engine, ["Hi"], max_new_tokens=2, progress=False)[0]) > 0


def test_an_unknown_engine_or_option_is_named(checkpoint):
    with pytest.raises(ValueError, match=r"engine 'hf' does not exist; choose one of \['transf"):
        load_engine("pocket-reasoner", "hf")
    for engine in ("transformer_lens", "huggingface"):
        with pytest.raises(ValueError, match=f"engine '{engine}' with the options .'rows': 3.: "):
            load_engine(checkpoint("llama"), engine, rows=3)
