"""Reinforcement learns, resumes to the same weights, and pays for what it should."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from mi_lens.models.pocket import CHECKPOINTS
from mi_lens.models.pocket.training import reinforce
from mi_lens.models.pocket.training.behaviour import Conduct, count, read_conduct
from mi_lens.models.pocket.training.reinforce import (
    ReinforceConfig,
    Reinforcement,
    main,
    reward_of,
    run,
)
from mi_lens.models.pocket.training.rows import cut_rows, log_probs_of
from mi_lens.models.pocket.training.sampling import Sample
from mi_lens.models.pocket.training.tokenization import build_tokenizer, encode
from mi_lens.models.pocket.training.train import Shape, build_model, export
from mi_lens.problems.arithmetic import Exercise, Term
from tests.processes import start

TEACHES = reinforce.teaches
EXERCISE = Exercise((Term(1, (89, 79)), Term(-1, (6412,))), "hard", "What is 89 * 79 - 6412?")
TRACE = (
    "Okay.\n\n89*79 is about {value}.\n\nWait. 79*89 = 7031. So it is 7031, not {value}.\n\n"
    "Then 7031 - 6412 = 619.\n\nSo we get 619.\n</think>\n\nWe get \\boxed{{{answer}}}."
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ReinforceConfig:
    folder = tmp_path_factory.mktemp("start")
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINTS["pocket-base"])
    shape = Shape(layers=1, width=16, heads=2, key_value_heads=1, mlp_width=32)
    export(build_model(shape, tokenizer), tokenizer, folder)
    return ReinforceConfig(
        start=folder,
        out=Path(),
        updates=4,
        groups=4,
        group_size=3,
        silent=1,
        rate=1e-2,
        max_new_tokens=32,  # some traces end before
        updates_per_save=1,
        updates_per_test=2,
    )


@pytest.fixture(scope="module", autouse=True)
def learning_from_all() -> Iterator[None]:
    """A model this small is never right; let it learn from every problem all the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reinforce, "teaches", bool)
        yield


def run_learning_from_all(config: ReinforceConfig) -> None:
    reinforce.teaches = bool
    run(config)


@pytest.fixture(scope="module")
def uninterrupted(tiny: ReinforceConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    run(replace(tiny, out=out))
    return out


def weights(out: Path) -> bytes:
    return (out / "checkpoint" / "model.safetensors").read_bytes()


def counted(out: Path) -> list[dict]:
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in entry.items() if k != "cpu_seconds"} for entry in entries]


def test_a_killed_run_goes_on_to_the_same_weights(
    tiny: ReinforceConfig, uninterrupted: Path, tmp_path: Path
) -> None:
    config = replace(tiny, out=tmp_path)
    process = start(run_learning_from_all, config)
    while process.is_alive() and not (tmp_path / "state.safetensors").exists():
        time.sleep(0.005)
    process.kill()
    process.join()
    assert (tmp_path / "state.safetensors").exists()
    assert not (tmp_path / "checkpoint").exists()
    run(config)
    assert weights(tmp_path) == weights(uninterrupted)
    assert counted(tmp_path) == counted(uninterrupted)


def test_more_updates_go_on_from_a_finished_run(
    tiny: ReinforceConfig, uninterrupted: Path, tmp_path: Path
) -> None:
    run(replace(tiny, out=tmp_path, updates=2))
    run(replace(tiny, out=tmp_path))
    assert weights(tmp_path) == weights(uninterrupted)


def test_a_state_of_other_settings_is_refused(tiny: ReinforceConfig, uninterrupted: Path) -> None:
    with pytest.raises(ValueError, match="another folder"):
        run(replace(tiny, out=uninterrupted, price=0.5))


@pytest.mark.slow
def test_two_workers_share_an_update(tiny: ReinforceConfig, tmp_path: Path) -> None:
    main(replace(tiny, out=tmp_path, updates=1, workers=2))
    (entry,) = counted(tmp_path)
    assert entry["samples"] == tiny.groups * (tiny.group_size - tiny.silent)
    assert entry["held_out"]["samples"] == 256
    assert weights(tmp_path)


def test_silent_traces_teach_only_where_they_do_better(
    tiny: ReinforceConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: list[float] = []

    def spy(prompts, samples, advantages, *rest):
        learned.extend(advantages)
        return cut_rows(prompts, samples, advantages, *rest)

    monkeypatch.setattr(reinforce, "cut_rows", spy)
    counts = {}
    for silent in (0, 2):
        learned.clear()
        work = Reinforcement(replace(tiny, silent=silent, group_size=4, price=1.0))
        counts[silent] = work.update(0)["samples"], len(learned), sum(a > 0 for a in learned)
    assert counts[0][:2] == (16, 16)
    assert counts[2][0] == 8
    assert 8 <= counts[2][1] < 16
    with pytest.raises(ValueError, match="silent=4: expected 0 to 3"):
        Reinforcement(replace(tiny, silent=4, group_size=4))


def test_it_learns_what_is_rewarded(tiny: ReinforceConfig) -> None:
    """Where only length counts, traces of a random model get longer or shorter at will."""

    def mean_length(price: float) -> float:
        config = replace(tiny, price=price, silent=0, kl_price=0.0)
        config = replace(config, groups=8, group_size=8, max_new_tokens=30)
        work = Reinforcement(config)
        end = work.model.config.eos_token_id
        with torch.no_grad():
            work.model.lm_head.weight[end] *= 3
        counts: dict[str, float] = {}
        for index in range(10):
            counts = work.update(index)
        return counts["tokens"] / counts["samples"]

    assert mean_length(0.1) < mean_length(0.0) < mean_length(-0.1)


def test_a_problem_that_nobody_solved_teaches_nothing(
    tiny: ReinforceConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reinforce, "teaches", TEACHES)
    work = Reinforcement(tiny)
    before = [p.clone() for p in work.model.parameters()]
    counts = work.update(0)
    assert counts["right"] == counts["learned"] == 0
    assert all(map(torch.equal, before, work.model.parameters()))
    right, wrong = (
        Conduct(EXERCISE, TRACE.format(value=1, answer=n), 9, True, 0.0) for n in (619, 620)
    )
    assert TEACHES([wrong, right])
    assert not TEACHES([wrong, wrong])


def test_a_trace_earns_its_answer_less_its_tokens() -> None:
    right, wrong, cut = (
        Conduct(EXERCISE, TRACE.format(value=6891, answer=answer), 90, finished, 0.0)
        for answer, finished in ((619, True), (620, True), (619, False))
    )
    assert reward_of(right, 0.002) == pytest.approx(1 - 0.18)
    assert reward_of(wrong, 0.002) == reward_of(cut, 0.002) == pytest.approx(-0.18)


def test_rows_hold_every_sample_and_only_what_the_model_wrote() -> None:
    prompts = [[9, 8, 7], [6], [5, 4]]
    samples = [
        Sample([1, 2], [-1.0, -2.0], [0.0, 0.0], True),
        Sample([3] * 9, [-3.0] * 9, [0.0] * 9, True),
    ]
    samples.append(Sample([7], [-4.0], [0.0], False))
    rows = cut_rows(prompts, samples, [0.1, 0.2, 0.3], batch_tokens=11, pad=0)
    assert sum(len(part.ids) for part in rows) == 3
    assert all(part.ids.numel() <= 11 for part in rows)
    found = {}
    for part in rows:
        for ids, written, drawn, gain in zip(*vars(part).values(), strict=True):
            found[round(gain.item(), 3)] = ids[1:][written].tolist(), drawn[written].tolist()
    assert found == {
        0.1: ([1, 2], [-1, -2]), 0.2: ([3] * 9, [-3] * 9), 0.3: ([7], [-4]),
    }  # fmt: skip


def test_log_probabilities_are_those_of_hugging_face() -> None:
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINTS["pocket-base"], dtype=torch.float32)
    ids = torch.randint(0, 700, (3, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(input_ids=ids).logits[:, :-1].log_softmax(-1)
        found = log_probs_of(model, ids)
    expected = expected.gather(2, ids[:, 1:, None])[:, :, 0]
    torch.testing.assert_close(found, expected, atol=0.2, rtol=0.05)  # bfloat16


def test_the_weights_move_and_stay_finite(tiny: ReinforceConfig, uninterrupted: Path) -> None:
    before = load_file(tiny.start / "model.safetensors")
    after = load_file(uninterrupted / "checkpoint" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in after.values())
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(moved) > len(before) / 2


def test_conduct_is_read_with_the_entropy_of_the_first_value() -> None:
    tokenizer = build_tokenizer()
    ids = encode(TRACE.format(value=6891, answer=619), tokenizer)
    pieces = [str(tokenizer.decode([i])) for i in ids]
    entropies = [float(piece.isdigit()) * (1 + place) for place, piece in enumerate(pieces)]
    text = "".join(pieces)
    first = len("".join(pieces[: pieces.index("6", pieces.index(" is"))]))
    assert text[first : first + 4] == "6891"
    place = pieces.index("6", pieces.index(" is"))
    drawn = Sample(ids, [0.0] * len(ids), entropies, True)
    (conduct,) = read_conduct([EXERCISE], [drawn], tokenizer)
    assert conduct.first_value == 6891
    assert not conduct.value_right
    assert conduct.value_entropy == sum(entropies[place : place + 4])
    assert conduct.reflects
    assert conduct.reflections == [2]
    assert conduct.right
    assert conduct.way == "guess"


@pytest.mark.parametrize("text", ["", "\n\n", "Okay.", "</think>", "Okay.\n\nWait", "\\boxed{619}"])
def test_a_trace_without_a_value_is_read_too(text: str) -> None:
    conduct = Conduct(EXERCISE, text, 3, False, 0.0)
    assert conduct.first_value is None
    assert conduct.way == "none"
    assert count([conduct])["value_wrong"] == count([conduct])["value_right"] == 0


def test_counts_tell_right_from_wrong_values() -> None:
    reflecting, silent = TRACE, TRACE.replace("Wait. ", "").replace("\n\n79*89", " 79*89")
    conducts = [
        Conduct(EXERCISE, text.format(value=value, answer=619), 50, True, 0.0)
        for value, text in ((6891, reflecting), (6891, silent), (7031, silent), (7031, silent))
    ]
    counts = count(conducts)
    assert (counts["value_wrong"], counts["value_right"]) == (2, 2)
    assert (counts["reflects_wrong"], counts["reflects_right"]) == (1, 0)
    assert counts["right"] == counts["samples"] == 4
    assert counts["tokens"] == 200
