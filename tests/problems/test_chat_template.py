"""Chat templates that fail, do not end, or read the clock."""

import copy
import time
from datetime import datetime

import pytest

from mi_lens.problems import chat_template
from mi_lens.problems.chat_template import on_a_fixed_day, rendered
from mi_lens.problems.prompts import prompt_text

LLAMA_3 = (
    "{{ bos_token }}{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}"
    "{%- set date_string = '26 Jul 2024' %}{%- endif %}{%- endif %}"
    "Today Date: {{ date_string }}\n{% for m in messages %}{{ m.content | trim }}{% endfor %}"
)
GPT_OSS = '{{- "Current date: " + strftime_now( "%Y-%m-%d" ) }} {{ messages[0]["content"] }}'


def with_template(tokenizer, template):
    other = copy.copy(tokenizer)
    other.chat_template = template
    other.name_or_path = "checkpoints/mine"
    return other


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "TemplateError: roles must alternate"),
        ("{% for m in messages %}", "TemplateSyntaxError"),
        ("{{ messages | shout }}", "TemplateAssertionError: No filter named 'shout'"),
        ("{{ messages[7].content.strip() }}", "UndefinedError"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError|unsafe"),
        ("{{ strftime_now(messages[0].content) }}", "reads the clock in a format that it computes"),
    ],
)
def test_a_template_that_fails_is_named(tokenizer, template, message):
    failing = with_template(tokenizer, template)
    with pytest.raises(ValueError, match=r"the chat template of checkpoints/mine fails") as error:
        prompt_text(failing, "1 + 1?")
    assert message.split("|")[0] in str(error.value)
    assert "use style='raw'" in str(error.value)
    assert prompt_text(failing, "1 + 1?", "raw") == "1 + 1?"


@pytest.mark.parametrize(
    ("template", "limit"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "0.5 s"),
        ("{% set s = namespace(x='xy') %}{% for i in range(60) %}{% set s.x = s.x ~ s.x %}"
         "{% endfor %}", "1 GB of memory"),
    ],
)  # fmt: skip
def test_a_template_that_does_not_end_is_refused(tokenizer, monkeypatch, template, limit):
    monkeypatch.setattr(chat_template, "SECONDS", 0.5 if "s" in limit[3:] else 20.0)
    endless = with_template(tokenizer, template + "{{ messages[0].content }}")
    for attempt in range(2):
        begun = time.monotonic()
        with pytest.raises(ValueError, match=f"checkpoints/mine takes over {limit} for a short"):
            prompt_text(endless, "1 + 1?")
        if attempt:
            assert time.monotonic() - begun < 0.3  # it is not tried again


@pytest.mark.parametrize("template", [LLAMA_3, GPT_OSS])
def test_a_prompt_does_not_depend_on_the_day(tokenizer, template, monkeypatch):
    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2031, 1, 2)

    dated = with_template(tokenizer, template)
    text = prompt_text(dated, "1 + 1?")
    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Later)
    chat = [{"role": "user", "content": "1 + 1?"}]
    assert "2031" in dated.apply_chat_template(chat, tokenize=False)  # as it would have been
    assert prompt_text(dated, "1 + 1?") == text
    assert "26 Jul 2024" in text or "2024-07-26" in text


def test_other_templates_are_left_as_they_are(tokenizer):
    plain = tokenizer.chat_template
    assert on_a_fixed_day(plain) == plain
    chat = [{"role": "user", "content": "1 + 1?"}]
    usual = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert rendered(tokenizer, chat) == usual
    marked = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    assert prompt_text(with_template(tokenizer, marked + "{{ messages|tojson }}"), "Hi")[:2] == "Hi"
