import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mi_lens.models.pocket.training import train as training
from mi_lens.models.pocket.training.train import Shape, TrainConfig, rate_factor, train
from tests.processes import start

TINY = TrainConfig(
    model="pocket-reasoner",
    out=Path(),
    tokens=24_000,
    polish_tokens=6_000,
    shape=Shape(layers=1, width=16, heads=2, key_value_heads=1, mlp_width=32),
    batch_tokens=1024,
    block_texts=16,
    blocks_per_save=1,
)


@pytest.fixture(scope="module", autouse=True)
def one_tokenizer() -> Iterator[None]:
    """Every run here builds the same tokenizer (test_tokenization.py shows it): build it once."""
    tokenizer = training.build_tokenizer()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "build_tokenizer", lambda: tokenizer)
        yield


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    train(replace(TINY, out=out))
    return out


def weights(out: Path) -> bytes:
    return (out / "checkpoint" / "model.safetensors").read_bytes()


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]


def test_the_loss_falls(uninterrupted: Path) -> None:
    first, *_, last = losses(uninterrupted)
    assert last < first - 0.5


def test_a_temperature_divides_the_finished_models_logits(
    uninterrupted: Path, tmp_path: Path
) -> None:
    train(replace(TINY, out=tmp_path, temperature=0.5))
    first, second = (
        load_file(folder / "checkpoint" / "model.safetensors")
        for folder in (uninterrupted, tmp_path)
    )
    for name, weight in first.items():
        scale = 2 if name == "lm_head.weight" else 1
        torch.testing.assert_close(second[name], scale * weight, rtol=0, atol=0)


def test_an_exception_costs_nothing(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(TINY, out=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(training, "save_state", fail_after(training.save_state, calls=2))
        with pytest.raises(KeyboardInterrupt):
            train(config)
    train(config)
    assert weights(tmp_path) == weights(uninterrupted)
    assert losses(tmp_path) == losses(uninterrupted)


def fail_after(function, calls: int):
    done = []

    def limited(*args):
        if len(done) == calls:
            raise KeyboardInterrupt
        done.append(function(*args))

    return limited


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights(uninterrupted: Path, tmp_path: Path) -> None:
    config = replace(TINY, out=tmp_path)
    process = start(train, config)
    while process.is_alive() and not (tmp_path / "state.safetensors").exists():
        time.sleep(0.02)
    process.kill()
    process.join()
    assert (tmp_path / "state.safetensors").exists()
    assert not (tmp_path / "checkpoint").exists()
    process = start(train, config)
    process.join()
    assert process.exitcode == 0
    assert weights(tmp_path) == weights(uninterrupted)


def test_a_state_of_other_settings_is_refused(uninterrupted: Path) -> None:
    with pytest.raises(ValueError, match="another folder"):
        train(replace(TINY, out=uninterrupted, seed=5))


def test_the_checkpoint_holds_the_trained_weights(uninterrupted: Path) -> None:
    state = load_file(uninterrupted / "state.safetensors")
    stored = load_file(uninterrupted / "checkpoint" / "model.safetensors")
    for name, tensor in stored.items():
        assert tensor.dtype == torch.float16
        torch.testing.assert_close(tensor, state[f"model.{name}"].half(), rtol=0, atol=0)


def test_rates_rise_stay_and_fall() -> None:
    factors = [rate_factor(TINY, tokens, polish=False) for tokens in (0, 8_000, 18_000, 24_000)]
    assert 0 < factors[0] < 1
    assert factors[1:] == [1, pytest.approx(0.5), 0]
    again = [rate_factor(TINY, tokens, polish=True) for tokens in (24_000, 27_000, 30_000)]
    assert again == [0.3, pytest.approx(0.15), 0]
