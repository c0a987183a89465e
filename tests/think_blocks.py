"""Models' ways to mark their thinking, written for the tests: a tokenizer, a template, a trace."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from tests.conftest import train_tokenizer

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
)
SWITCH = "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
HARMONY = (
    "<|start|>system<|message|># Valid channels: analysis, commentary, final.<|end|>"
    "{% for message in messages %}<|start|>{{ message['role'] }}<|message|>"
    "{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
MAGISTRAL = (
    "<s>[SYSTEM_PROMPT]Draft between [THINK] and [/THINK]."
    "{% for message in messages %}[INST]{{ message['content'] }}[/INST]{% endfor %}"
)
# Two thoughts; a reply with another blank line.
THINKING = "Okay.\n\nWait, 12.\n\nSo 12."
REPLY = "It is\n\n\\boxed{12}."


@dataclass(frozen=True)
class Family:
    """How a family of models marks its thinking.

    Attributes:
        kind: The name of the kind.
        special: The special tokens; the first begins a text.
        template: The chat template.
        end: The token that ends a text.
        begins: What the model writes before it thinks.
        turns: What it writes between thinking and reply.
        opened: Whether the prompt opens the block.
        ordinary: Added tokens that are not special, as R1 has them.
    """

    kind: str
    special: tuple[str, ...]
    template: str
    end: str
    begins: str
    turns: str
    opened: bool = False
    ordinary: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """What the model writes."""
        return f"{self.begins}{THINKING}{self.turns}{REPLY}"


def chatml(
    kind: str, prompt: str, begins: str, turns: str, *, system: str = "", **settings: Any
) -> Family:
    """A family whose turns are marked as Qwen's are.

    Args:
        kind: See `Family`.
        prompt: What its template writes after "assistant".
        begins: See `Family`.
        turns: See `Family`.
        system: What its template writes as system prompt.
        **settings: See `Family`.
    """
    template = f"{system}{CHATML}{prompt}{{% endif %}}"
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    return Family(kind, special, template, "<|im_end|>", begins, turns, **settings)


TAGS = ("<think>", "</think>")
SYSTEM = "<|im_start|>system\nFrom <|begin_of_thought|> to <|end_of_thought|>.<|im_end|>\n"
SKY = ("<|begin_of_thought|>\n\n", "\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\n")
FAMILIES = {
    "r1": chatml("think", "<think>\n", "", "\n</think>\n\n", opened=True, ordinary=TAGS),
    "qwen3": chatml("think", SWITCH, "<think>\n", "\n</think>\n\n", ordinary=TAGS),
    # These two have no tokens of their own for the marks.
    "olmo": chatml("think", "<think>", "", "</think>\n", opened=True),
    "sky": chatml("open-thoughts", "", *SKY, system=SYSTEM),
    "gpt-oss": Family(
        kind="gpt-oss",
        special=("<|return|>", "<|start|>", "<|end|>", "<|message|>", "<|channel|>"),
        template=HARMONY,
        end="<|return|>",
        begins="<|channel|>analysis<|message|>",
        turns="<|end|><|start|>assistant<|channel|>final<|message|>",
    ),
    "magistral": Family(
        kind="magistral",
        special=("<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[THINK]", "[/THINK]"),
        template=MAGISTRAL,
        end="</s>",
        begins="[THINK]",
        turns="[/THINK]",
    ),
}
# An instruct model: neither its tokenizer nor its template has a mark.
PLAIN = chatml("think", "", "", "\n\n", opened=True)


@cache
def tokenizer_of(family: Family) -> Any:
    """The tokenizer of a family; not to be changed."""
    return new_tokenizer(family)


def new_tokenizer(family: Family) -> Any:
    """A tokenizer of a family of a test's own."""
    from tokenizers import AddedToken

    tokenizer = train_tokenizer(family.special, family.template, family.end)
    tokenizer.add_tokens([AddedToken(mark, special=False) for mark in family.ordinary])
    return tokenizer
