import pytest

from mi_lens.generation.engines.vllm_start import require_options, watched_layers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"enable_lora": True}, "enable_lora=True: adapters change layers"),
        ({"speculative_config": {"method": "ngram"}}, "drafted tokens are read before"),
        ({"async_scheduling": True}, "must know the token of the step before"),
        ({"data_parallel_size": 2}, "data_parallel_size=2: expected 1; use tensor_parallel_size"),
    ],
)
def test_options_that_break_a_promise_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        require_options(options)
    require_options({name: 1 if "size" in name else None for name in options})


def test_layers_of_hook_names():
    names = ["blocks.3.hook_resid_post", "blocks.0.hook_resid_pre", "blocks.3.hook_resid_pre"]
    assert watched_layers(names) == [0, 3]
    assert watched_layers([]) == []
    with pytest.raises(ValueError, match=r"'blocks.1.hook_attn_out': on vLLM only the residual"):
        watched_layers(["blocks.1.hook_attn_out"])
