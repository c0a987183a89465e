"""How a question becomes the token ids that a model reads."""

from typing import Literal, get_args

PromptStyle = Literal["chat", "raw", "seal"]
# The prompts that the two papers published, as styles of `prompt_text`.
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


def prompt_text(
    tokenizer, question: str, style: PromptStyle = "chat", *, system: str | None = None
) -> str:
    """The text put to the model.

    Args:
        tokenizer: A Hugging Face tokenizer.
        question: A problem's question.
        style: "chat", the question through the tokenizer's chat template; "raw", the question as
            it stands (paper 1); "seal", paper 2's instruction and question through the template.
        system: What the system says first, through the template.

    Raises:
        ValueError: If the style is unknown, the question or the system's text empty, a template is
            asked of a tokenizer that has none, or a system prompt of a raw question or of a
            template that leaves it out.
    """
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
            f"prompt style {style!r} needs a chat template and this model's tokenizer has none; "
            "use style='raw'"
        )
    content = question if style == "chat" else f"{SEAL_INSTRUCTION}\nQuestion: {question}"
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages.append({"role": "user", "content": content})
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    if system is not None and system.strip() not in text:
        raise ValueError(
            "this model's chat template leaves the system prompt out; put it in the question"
        )
    return text


def code_question(question: str, starter_code: str = "") -> str:
    """A programming problem's question with the form in which to answer."""
    if not starter_code.strip():
        return f"{question.strip()}\n\n{PROGRAM_INSTRUCTION}"
    return f"{question.strip()}\n\n{STARTER_INSTRUCTION}\n\n```python\n{starter_code.strip()}\n```"


def encode_prompt(
    tokenizer, question: str, style: PromptStyle = "chat"
) -> tuple[str, tuple[int, ...]]:
    """A question's prompt as text and as token ids.

    Args:
        tokenizer: A Hugging Face tokenizer.
        question: A problem's question.
        style: See `prompt_text`.

    Raises:
        ValueError: As `prompt_text`, or if the prompt encodes to no tokens.
    """
    text = prompt_text(tokenizer, question, style)
    return text, tuple(encode(tokenizer, text, templated=style != "raw"))


def encode(tokenizer, text: str, *, templated: bool) -> list[int]:
    """Token ids; plain text gets the tokenizer's special tokens, a template brings its own."""
    ids = tokenizer.encode(text, add_special_tokens=not templated)
    if not ids:
        raise ValueError(f"the text {text!r} encodes to no tokens")
    return ids
