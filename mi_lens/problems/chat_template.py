"""A tokenizer's chat template, rendered within limits and independently of the day.

A chat template is a program of whoever wrote the checkpoint. It runs in the sandbox of Jinja, which
limits what it can reach, but neither its time nor its memory. So each template is first tried in a
child process with limits. A template that writes today's date would give other tokens tomorrow: it
is told a fixed date.
"""

import json
import re
import subprocess
import sys
from datetime import datetime
from functools import lru_cache
from pathlib import Path

from mi_lens.problems.chat_template_child import TOO_MUCH_MEMORY

CHILD = Path(__file__).with_name("chat_template_child.py")
SECONDS, MEMORY = 5.0, 1 << 30
DATE = datetime(2024, 7, 26)  # The date that Llama 3's template writes where there is no clock.
CLOCK = re.compile(r"""strftime_now\(\s*(?:'([^'\\]*)'|"([^"\\]*)")\s*\)""")


def rendered(tokenizer, messages: list[dict[str, str]], **variables: bool) -> str:
    """Messages as the tokenizer's chat template writes them, up to where the model goes on.

    Args:
        tokenizer: A Hugging Face tokenizer with a chat template.
        messages: The messages, each with its role and content.
        **variables: Further variables of the template, such as `enable_thinking`.

    Raises:
        ValueError: If the template fails, does not end within seconds and a gigabyte of memory, or
            formats the date in a way that cannot be fixed.
    """
    whose = f"the chat template of {tokenizer.name_or_path or 'this tokenizer'}"
    advice = "use style='raw', or mend the template (chat_template.jinja, or tokenizer_config.json)"
    try:
        template = on_a_fixed_day(tokenizer.get_chat_template())
        given = json.dumps({**tokenizer.special_tokens_map, **variables})
        if (limit := _limit_exceeded(template, given)) is None:
            return tokenizer.apply_chat_template(
                messages,
                chat_template=template,
                tokenize=False,
                add_generation_prompt=True,
                **variables,
            )
    except Exception as error:
        raise ValueError(f"{whose} fails ({type(error).__name__}: {error}); {advice}") from error
    raise ValueError(f"{whose} takes over {limit} for a short question; {advice}")


def on_a_fixed_day(template: str) -> str:
    """The template with `DATE` in place of every call for the present time.

    Raises:
        ValueError: If the template computes the format of the date.
    """

    def fixed(call: re.Match[str]) -> str:
        return json.dumps(DATE.strftime(call[1] if call[1] is not None else call[2]))

    fixed_template = CLOCK.sub(fixed, template)
    if re.search(r"strftime_now\s*\(", fixed_template):
        raise ValueError(
            "it reads the clock in a format that it computes, so that its text would depend on the "
            "day; expected strftime_now with a format in quotation marks"
        )
    return fixed_template


@lru_cache(maxsize=64)
def _limit_exceeded(template: str, given: str) -> str | None:
    """The limit that a template exceeds with a short question; None if it ends in time.

    `given` holds further variables as JSON: the special tokens, and what the caller adds.
    """
    variables = {
        "messages": [{"role": "user", "content": "What is 1 + 1?"}],
        "add_generation_prompt": True,
        **json.loads(given),
    }
    task = json.dumps({"template": template, "variables": variables, "memory": MEMORY})
    try:
        child = subprocess.run(
            [sys.executable, "-I", "-B", str(CHILD)],
            input=task.encode(),
            timeout=SECONDS,
            check=False,
            capture_output=True,
        )
    except subprocess.TimeoutExpired:
        return f"{SECONDS:g} s"
    killed = child.returncode < 0 or child.returncode == TOO_MUCH_MEMORY
    return f"{MEMORY >> 30} GB of memory" if killed else None
