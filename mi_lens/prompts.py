"""How a question becomes the token ids that a model reads."""

from typing import Literal, get_args

PromptStyle = Literal["chat", "raw", "seal"]

SEAL_INSTRUCTION = (
    "Answer the following questions. You should think step-by-step and put your final answer "
    "within \\boxed{}."
)


def prompt_text(tokenizer, question: str, style: PromptStyle = "chat") -> str:
    """The text put to the model.

    Args:
        tokenizer: A Hugging Face tokenizer.
        question: A problem's question.
        style: "chat", the question through the tokenizer's chat template; "raw", the question as
            it stands (paper 1); "seal", paper 2's instruction and question through the template.

    Raises:
        ValueError: If the style is unknown, the question empty, or a template is asked of a
            tokenizer that has none.
    """
    if style not in get_args(PromptStyle):
        raise ValueError(f"prompt style {style!r}: expected one of {get_args(PromptStyle)}")
    if not question.strip():
        raise ValueError("the question is empty; expected some text to put to the model")
    if style == "raw":
        return question
    if tokenizer.chat_template is None:
        raise ValueError(
            f"prompt style {style!r} needs a chat template and this model's tokenizer has none; "
            "use style='raw'"
        )
    content = question if style == "chat" else f"{SEAL_INSTRUCTION}\nQuestion: {question}"
    return tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )


def encode(tokenizer, text: str, *, templated: bool) -> list[int]:
    """Token ids; plain text gets the tokenizer's special tokens, a template brings its own."""
    ids = tokenizer.encode(text, add_special_tokens=not templated)
    if not ids:
        raise ValueError(f"the text {text!r} encodes to no tokens")
    return ids
