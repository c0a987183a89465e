import pytest
import torch

from mi_lens.generation.engines.vllm_worker.trial import difference


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rounding_passes_and_a_step_left_out_does_not(dtype):
    logits = 3 * torch.randn(1, 500, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(1, 500, generator=torch.Generator().manual_seed(1))
    eps = torch.finfo(dtype).eps
    given = logits.to(dtype)
    assert not difference(given, given)
    assert not difference((logits + 4 * eps * noise).to(dtype), given)
    assert "differ by" in difference((1.5 * logits).to(dtype), given)
    assert "use mi_lens.load" in difference((logits + noise).to(dtype), given)


def test_a_small_factor_is_seen_in_float32():
    logits = torch.linspace(-3, 3, 200)[None]
    assert difference(1.01 * logits, logits)
