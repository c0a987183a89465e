"""The shipped models: whole, small, loadable like any checkpoint, and as good as their cards."""

import json

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from mi_lens.generation.generate import generate
from mi_lens.models.loading import load
from mi_lens.models.pocket import BASES, CHECKPOINTS
from mi_lens.models.pocket.training import card, card_rl
from mi_lens.problems.answers import is_correct
from mi_lens.problems.loading import load_problems

NAMES = tuple(CHECKPOINTS)
PAIR = ("pocket-reasoner", "pocket-base")
REINFORCED = ("pocket-rl", "pocket-rl-base")


def measured(name: str) -> dict:
    return json.loads((CHECKPOINTS[name] / "evaluation.json").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_the_folder_is_a_whole_checkpoint_under_ten_megabytes(name):
    folder = CHECKPOINTS[name]
    assert {path.name for path in folder.iterdir()} >= {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "training.json",
    }
    assert sum(path.stat().st_size for path in folder.iterdir()) < 10e6


@pytest.mark.parametrize("name", NAMES)
def test_the_auto_classes_load_it(name):
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINTS[name], local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINTS[name], local_files_only=True)
    assert model.config.architectures == ["Qwen2ForCausalLM"]
    assert model.num_parameters() == measured(name)["parameters"]
    text = "Wait, 1234 * 56\n\n<think>\\boxed{7}"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer("1234")["input_ids"]) == 4


@pytest.mark.parametrize("pair", BASES.items())
def test_a_model_shares_tokenizer_and_shape_with_its_base(pair):
    model, base = (CHECKPOINTS[name] for name in pair)
    for file in ("tokenizer.json", "chat_template.jinja", "config.json"):
        assert (model / file).read_bytes() == (base / file).read_bytes()


def test_the_reasoner_read_as_much_as_its_base():
    reasoner, base = (CHECKPOINTS[name] for name in PAIR)
    tokens = [
        json.loads((folder / "training.json").read_text())["tokens"] for folder in (reasoner, base)
    ]
    assert tokens[0] == pytest.approx(tokens[1], rel=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_the_card_is_written_from_the_measurements(name):
    folder = CHECKPOINTS[name]
    trained = json.loads((folder / "training.json").read_text())
    written = (card_rl if name in REINFORCED else card).write_card(measured(name), trained)
    assert (folder / "README.md").read_text() == written


def test_the_cards_hold_what_the_pair_was_made_for():
    reasoner, base = map(measured, PAIR)
    assert reasoner["problems"] == base["problems"] == 500
    assert reasoner["accuracy"]["all"]["share"] >= 0.85
    assert reasoner["accuracy"]["all"]["share"] - base["accuracy"]["all"]["share"] >= 0.2


@pytest.mark.slow
def test_a_fresh_draw_of_problems_agrees_with_the_cards():
    problems = load_problems("pocket", limit=100, seed=1)
    share = {}
    for name in PAIR:
        traces = generate(load(name), problems, batch_size=50, progress=False)
        graded = [is_correct(t.text, p.answer) for t, p in zip(traces, problems, strict=True)]
        share[name] = sum(graded) / len(graded)
        # Four standard errors of 100 draws about the card's value.
        said = measured(name)["accuracy"]["all"]["share"]
        assert abs(share[name] - said) < 4 * (said * (1 - said) / 100) ** 0.5
    assert share["pocket-reasoner"] - share["pocket-base"] > 0.2
