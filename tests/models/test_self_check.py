"""The check at load: it passes what is right, and names what is not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mi_lens
from mi_lens.models import self_check
from mi_lens.models.backends import bridge
from mi_lens.models.backends.lookup import available
from mi_lens.models.loading import load
from mi_lens.models.self_check import Abilities, check, require_able
from tests.conftest import ARCHITECTURES, BRIDGED

ABLE = Abilities()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES | BRIDGED))
def test_every_architecture_can_do_everything(
    checkpoint: Callable[[str], Path], architecture: str, dtype: str
) -> None:
    for backend in available():
        if backend != "hooked" or architecture in ARCHITECTURES:
            model = load(checkpoint(architecture), backend=backend, dtype=dtype, device="cpu")
            assert model.abilities == ABLE, backend


def test_auto_takes_the_bridge_where_only_the_bridge_can(
    checkpoint: Callable[[str], Path], new_checkpoint: Callable[..., Path]
) -> None:
    assert type(load(checkpoint("olmo3"), device="cpu")).__name__ == "TransformerBridge"
    yarn = {
        "rope_type": "yarn",
        "rope_theta": 10_000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    folder = new_checkpoint("qwen2", rope_parameters=yarn)
    model = load(folder, device="cpu")
    assert type(model).__name__ == "TransformerBridge"
    assert model.abilities == ABLE
    if "hooked" in available():
        linear = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.0}
        model = load(new_checkpoint("llama", rope_parameters=linear), device="cpu")
        assert type(model).__name__ == "HookedTransformer"
        assert model.abilities == ABLE
        with pytest.raises(ValueError, match=r"'yarn'.*backend='bridge'"):
            load(folder, backend="hooked")
        with pytest.raises(ValueError, match=r"'Olmo3ForCausalLM'; use backend='bridge'"):
            load(checkpoint("olmo3"), backend="hooked")


class Broken:
    """A backend one of whose functions is wrong."""

    def __init__(self, name: str, function: Callable[..., Any]):
        self.broken = {name: function}

    def __getattr__(self, name: str) -> Any:
        return self.broken.get(name) or getattr(bridge, name)


def doubled(*args: Any, **kwargs: Any) -> Any:
    return 2 * bridge.again(*args, **kwargs)


def shifted(model: Any, tokens: Any, mask: Any, *rest: Any, **kwargs: Any) -> Any:
    return bridge.step(model, tokens, torch.ones_like(mask), *rest, **kwargs)


def refused(*args: Any) -> None:
    raise NotImplementedError("this cache cannot be cut")


@pytest.mark.parametrize(
    ("name", "function", "able", "reason"),
    [
        ("forward", lambda *args: -bridge.forward(*args), "", "the logits of row 0 differs"),
        ("step", shifted, "", "row 1 with a cache differs"),
        ("crop", refused, "read", "NotImplementedError: this cache cannot be cut"),
        ("keep_rows", lambda cache, rows: None, "read", "."),
        ("again", doubled, "read generate", "block 1 run again differs .* by 1e"),
        ("onward", lambda *args: torch.zeros(2, 390), "read generate", "from block 1 on"),
    ],
)
def test_what_is_wrong_is_found(
    checkpoint: Any, reference: Any, name: str, function: Any, able: str, reason: str
) -> None:
    source = reference(checkpoint("qwen2")).float()
    expected = self_check.reference(source)
    model = bridge.build(source, None)
    broken: Any = Broken(name, function)
    abilities = check(broken, model, expected)
    found = [each for each in ("read", "generate", "recycle") if not getattr(abilities, each)]
    assert found == able.split()
    model.abilities = abilities
    model.cfg.model_name = "tiny"
    for ability in ("read", "generate", "recycle"):
        if ability in found:
            require_able(model, ability)
        else:
            with pytest.raises(ValueError, match=f"tiny: this package cannot {ability} .*{reason}"):
                require_able(model, ability)


@pytest.mark.parametrize(
    ("config_class", "sizes", "able"),
    [
        ("BloomConfig", {"n_layer": 2, "n_head": 4}, True),
        ("GPTNeoXConfig", {"num_hidden_layers": 2, "num_attention_heads": 4}, True),
        ("FalconMambaConfig", {"num_hidden_layers": 2, "state_size": 4}, False),
    ],
)
def test_what_no_list_names_is_checked_all_the_same(
    tmp_path: Path, tokenizer: Any, config_class: str, sizes: dict[str, int], able: bool
) -> None:
    """Bloom names its sizes otherwise and has no positions; FalconMamba has neither."""
    import transformers

    common = {"vocab_size": 390, "hidden_size": 32, "intermediate_size": 48, "eos_token_id": 1}
    config = getattr(transformers, config_class)(**common, **sizes, initializer_range=0.3)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = load(tmp_path, device="cpu")
    assert (model.abilities == ABLE) == able
    if able:
        (trace,) = mi_lens.generate(model, ["12 * 7?"], max_new_tokens=8, progress=False)
        assert mi_lens.capture(model, [trace], "blocks.1.hook_resid_post")[0]
    else:
        with pytest.raises(ValueError, match=r"cannot generate with this model: blocks\.0"):
            mi_lens.generate(model, ["12 * 7?"], max_new_tokens=8, progress=False)
