from pathlib import Path
from random import Random
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from mi_lens.models.pocket.training.reasoning import write_drill, write_trace
from mi_lens.models.pocket.training.tokenization import TURN_END, build_tokenizer, encode, prompt_of
from mi_lens.problems.arithmetic import draw_exercise


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer().save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def test_text_survives_encoding(tokenizer: PreTrainedTokenizerBase) -> None:
    texts = [write_drill(Random(0)), "Ümläute, 漢字 and 🙂 too\r\n\t", ""]
    for seed in range(200):
        exercise = draw_exercise(Random(seed), "test")
        texts.append(exercise.question)
        texts.append(write_trace(exercise, Random(seed), reflect=seed % 2 == 0))
    for text in texts:
        assert tokenizer.decode(encode(text, tokenizer)) == text


def test_building_is_repeatable(tokenizer: PreTrainedTokenizerBase) -> None:
    again = build_tokenizer()
    assert again.get_vocab() == tokenizer.get_vocab()
    text = write_trace(draw_exercise(Random(0), "test"), Random(0))
    assert encode(text, again) == encode(text, tokenizer)


def test_tokens_are_cut_as_in_qwen2(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.tokenize("is 619.\n\nWait, Wait so\n\n1") == [
        *("is", "Ġ", "6", "1", "9", ".ĊĊ", "Wait", ",", "ĠWait", "Ġso", "ĊĊ", "1"),
    ]


def test_the_prompt_opens_the_think_block(tokenizer: PreTrainedTokenizerBase) -> None:
    prompt = prompt_of("What is 2 * 3 + 4?", tokenizer)
    assert prompt.endswith("assistant\n<think>\n")
    assert tokenizer.tokenize(prompt)[-2:] == ["<think>", "Ċ"]
    assert tokenizer.eos_token == TURN_END
    ids: Any = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is 2 * 3 + 4?"}],
        add_generation_prompt=True,
        return_dict=False,
    )
    assert ids == encode(prompt, tokenizer)
