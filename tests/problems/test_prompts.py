import copy

import jaxtyping
import pytest

from mi_lens.problems import chat_template
from mi_lens.problems.prompts import PUBLISHED, code_question, encode, encode_prompt, prompt_text
from mi_lens.traces.vocabulary import TokenSet
from tests.think_blocks import FAMILIES, tokenizer_of


def test_styles(tokenizer):
    raw = prompt_text(tokenizer, "What is 2 + 2?", "raw")
    chat = prompt_text(tokenizer, "What is 2 + 2?")
    seal = prompt_text(tokenizer, "What is 2 + 2?", "seal")
    assert raw == "What is 2 + 2?"
    assert chat == "<|begin|><|user|>What is 2 + 2?<|end|><|assistant|><think>"
    assert "within \\boxed{}.\nQuestion: What is 2 + 2?<|end|>" in seal


def test_a_template_brings_its_own_special_tokens(checkpoint, tokenizer):
    chat = prompt_text(tokenizer, "hello")
    ids = encode(tokenizer, chat, templated=True)
    assert ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer.decode(ids) == chat


def test_a_prompt_is_its_text_and_the_ids_of_that_text(tokenizer):
    for style in ("chat", "raw", "seal"):
        text, ids = encode_prompt(tokenizer, "hello", style)
        assert text == prompt_text(tokenizer, "hello", style)
        assert ids == tuple(encode(tokenizer, text, templated=style != "raw"))
    assert encode_prompt(tokenizer, "hello") == encode_prompt(tokenizer, "hello", "chat")


def test_bad_input(tokenizer):
    jaxtyping.config.update("jaxtyping_disable", True)  # As for users, who run without it.
    try:
        with pytest.raises(ValueError, match="prompt style 'base': expected one of"):
            prompt_text(tokenizer, "q", "base")  # type: ignore[arg-type]
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    with pytest.raises(ValueError, match="the question is empty"):
        prompt_text(tokenizer, " \n")
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    with pytest.raises(ValueError, match="has none; use style='raw'"):
        prompt_text(bare, "q", "seal")
    with pytest.raises(ValueError, match="encodes to no tokens"):
        encode(tokenizer, "", templated=True)


@pytest.mark.parametrize("style", ["chat", "raw", "seal"])
def test_a_model_without_tokenizer_is_told_what_is_missing(style):
    with pytest.raises(ValueError, match=r"no tokenizer.*tokenizer\.json.*mi_lens\.load"):
        encode_prompt(None, "2 + 2?", style)
    with pytest.raises(ValueError, match="no tokenizer"):
        TokenSet.of(None, ["Wait"])


def test_a_system_prompt(tokenizer):
    text = prompt_text(tokenizer, "2 + 2?", system="Be brief.")
    assert text == "<|begin|><|system|>Be brief.<|end|><|user|>2 + 2?<|end|><|assistant|><think>"
    with pytest.raises(ValueError, match=r"system='Be brief\.' with style 'raw'"):
        prompt_text(tokenizer, "q", "raw", system="Be brief.")
    with pytest.raises(ValueError, match="system=' ' with style 'chat'"):
        prompt_text(tokenizer, "q", system=" ")
    deaf = copy.deepcopy(tokenizer)
    deaf.chat_template = "{{ messages[-1]['content'] }}"
    with pytest.raises(ValueError, match="leaves the system prompt out"):
        prompt_text(deaf, "q", system="Be brief.")


def test_thinking_is_switched_on_and_off():
    tokenizer = tokenizer_of(FAMILIES["qwen3"])
    plain = "<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n"
    assert prompt_text(tokenizer, "2 + 2?") == plain
    assert prompt_text(tokenizer, "2 + 2?", "chat-thinking") == plain
    off = prompt_text(tokenizer, "2 + 2?", "chat-no-thinking")
    assert off == f"{plain}<think>\n\n</think>\n\n"
    assert encode_prompt(tokenizer, "2 + 2?", "chat-no-thinking")[1] == tuple(tokenizer.encode(off))
    with_system = prompt_text(tokenizer, "2 + 2?", "chat-no-thinking", system="Be brief.")
    assert "Be brief." in with_system
    assert with_system.endswith("</think>\n\n")


def test_a_switch_that_the_template_does_not_read_is_refused(tokenizer, monkeypatch):
    for style in ("chat-thinking", "chat-no-thinking"):
        with pytest.raises(
            ValueError, match=f"'{style}'.*the same prompt with enable_thinking and"
        ):
            prompt_text(tokenizer, "q", style)
    monkeypatch.setattr(chat_template, "SECONDS", 0.5)
    loops = copy.deepcopy(tokenizer)
    loops.chat_template = (
        "{{ messages[0]['content'] }}{% if enable_thinking is false %}"
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}{% endif %}"
    )
    assert prompt_text(loops, "q") == "q"
    with pytest.raises(ValueError, match="takes over"):
        prompt_text(loops, "q", "chat-no-thinking")


def test_published_prompts_by_name(tokenizer):
    assert prompt_text(tokenizer, "2 + 2?", PUBLISHED["mi-peaks"]) == "2 + 2?"
    assert "step-by-step" in prompt_text(tokenizer, "2 + 2?", PUBLISHED["seal"])


def test_code_question():
    assert "stdin" in code_question("Add two numbers.\n")
    text = code_question("Add two numbers.", "class Solution:\n    def add(self): ...\n")
    assert text.endswith("```python\nclass Solution:\n    def add(self): ...\n```")
    assert "stdin" not in text
