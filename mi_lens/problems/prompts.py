"""Turns a question into the token ids that a model reads."""

from typing import Any, Literal, get_args

from mi_lens.problems.chat_template import rendered

PromptStyle = Literal["chat", "chat-thinking", "chat-no-thinking", "raw", "seal"]
# What a style tells the chat template, besides the messages.
TEMPLATE_VARIABLES = {
    "chat-thinking": {"enable_thinking": True},
    "chat-no-thinking": {"enable_thinking": False},
}
# The prompts of the two papers, as styles of `prompt_text`.
PUBLISHED: dict[str, PromptStyle] = {"mi-peaks": "raw", "seal": "seal"}

SEAL_INSTRUCTION = (
    "Answer the following questions. You should think step-by-step and put your final answer "
    "within \\boxed{}."
)
PROGRAM_INSTRUCTION = (
    "Write a Python program that reads its input from stdin and prints its output to stdout. "
    "Give the whole program in one block that begins with ```python and ends with ```."
)
STARTER_INSTRUCTION = (
    "Complete this Python code; keep its names. Give all of it in one block that begins with "
    "```python and ends with ```."
)


def require_tokenizer(tokenizer: Any) -> None:
    """Refuses None, which a model loaded without tokenizer files has for a tokenizer.

    Raises:
        ValueError: If there is no tokenizer.
    """
    if tokenizer is None:
        raise ValueError(
            "the model has no tokenizer, and this needs one: put its tokenizer.json and "
            "tokenizer_config.json beside the weights and load it with mi_lens.load, or set "
            "model.tokenizer"
        )


def prompt_text(
    tokenizer, question: str, style: PromptStyle = "chat", *, system: str | None = None
) -> str:
    """The prompt of a question, as text.

    Args:
        tokenizer: A Hugging Face tokenizer.
        question: A problem's question.
        style: "chat" puts the question into the tokenizer's chat template; "chat-thinking" and
            "chat-no-thinking" also set the template's `enable_thinking`, as templates like Qwen3's
            read it; "raw" leaves the question as it is (paper 1); "seal" puts paper 2's instruction
            and the question into the template.
        system: A system prompt for the template.

    Raises:
        ValueError: If there is no tokenizer; if the style is unknown; if the question or the system
            prompt is empty; if the style needs a chat template and the tokenizer has none, or one
            that fails or does not end; if a system prompt is given with style "raw", or to a
            template that leaves it out; if the style switches thinking on or off, and the template
            writes the same prompt either way.
    """
    require_tokenizer(tokenizer)
    if style not in get_args(PromptStyle):
        raise ValueError(f"prompt style {style!r}: expected one of {get_args(PromptStyle)}")
    if not question.strip():
        raise ValueError("the question is empty; expected some text to put to the model")
    if system is not None and (style == "raw" or not system.strip()):
        raise ValueError(
            f"system={system!r} with style {style!r}: expected some text, and a style with a chat "
            "template to put it in"
        )
    if style == "raw":
        return question
    if tokenizer.chat_template is None:
        raise ValueError(
            f"prompt style {style!r} needs a chat template, but this model's tokenizer has none; "
            "use style='raw'"
        )
    content = question if style != "seal" else f"{SEAL_INSTRUCTION}\nQuestion: {question}"
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages.append({"role": "user", "content": content})
    variables = TEMPLATE_VARIABLES.get(style, {})
    text = rendered(tokenizer, messages, **variables)
    if variables:
        others = {name: not value for name, value in variables.items()}
        if rendered(tokenizer, messages, **others) == text:
            raise ValueError(
                f"prompt style {style!r}: this model's chat template writes the same prompt with "
                "enable_thinking and without, so it does not read it; use style='chat'"
            )
    if system is not None and system.strip() not in text:
        raise ValueError(
            "this model's chat template leaves the system prompt out; put it into the question"
        )
    return text


def code_question(question: str, starter_code: str = "") -> str:
    """The question of a programming problem, followed by the form in which to answer."""
    if not starter_code.strip():
        return f"{question.strip()}\n\n{PROGRAM_INSTRUCTION}"
    return f"{question.strip()}\n\n{STARTER_INSTRUCTION}\n\n```python\n{starter_code.strip()}\n```"


def encode_prompt(
    tokenizer, question: str, style: PromptStyle = "chat"
) -> tuple[str, tuple[int, ...]]:
    """The prompt of a question, as text and as token ids.

    Args:
        tokenizer: A Hugging Face tokenizer.
        question: A problem's question.
        style: See `prompt_text`.

    Raises:
        ValueError: As in `prompt_text`, or if the prompt encodes to no tokens.
    """
    text = prompt_text(tokenizer, question, style)
    return text, tuple(encode(tokenizer, text, templated=style != "raw"))


def encode(tokenizer, text: str, *, templated: bool) -> list[int]:
    """The token ids of a text.

    Args:
        tokenizer: A Hugging Face tokenizer.
        text: The text.
        templated: Whether a chat template made the text, which then contains all special tokens.
            The tokenizer's special tokens are added to any other text.

    Raises:
        ValueError: If there is no tokenizer, or the text encodes to no tokens.
    """
    require_tokenizer(tokenizer)
    ids = tokenizer.encode(text, add_special_tokens=not templated)
    if not ids:
        raise ValueError(f"the text {text!r} encodes to no tokens")
    return ids
