"""What is asked of a model."""

from dataclasses import dataclass, field

from mi_lens.common.checked_types import require_at_least, require_types
from mi_lens.interventions.condition import Condition
from mi_lens.models.model import Model
from mi_lens.problems.problem import Problem, require_writable
from mi_lens.problems.prompts import PromptStyle


@dataclass(frozen=True)
class Request:
    """One generation that is asked for.

    Attributes:
        problem: A problem, or a bare question.
        condition: What is done to the generation, and how tokens are drawn.
        style: How the question becomes a prompt.
        seed: The seed of the sampling. Equal requests with equal seeds give equal tokens.
        max_new_tokens: The most tokens to generate, the prefix included.
        stop: Texts and token ids that end the generation once written; they stay in the trace.
        prefix: Token ids that the generation begins with. They are read like a prompt: `Steer`
            acts on them, `Recycle` does not.
    """

    problem: Problem | str
    condition: Condition = field(default_factory=Condition)
    style: PromptStyle = "chat"
    seed: int = 0
    max_new_tokens: int = 512
    stop: tuple[str | int, ...] = ()
    prefix: tuple[int, ...] = ()

    def __post_init__(self):
        require_types(self, ("style", "seed", "max_new_tokens", "stop", "prefix"))
        require_at_least(self, max_new_tokens=1)
        require_writable(self.question, "the question")
        if len(self.prefix) >= self.max_new_tokens:
            raise ValueError(
                f"a prefix of {len(self.prefix)} tokens leaves none of max_new_tokens="
                f"{self.max_new_tokens}; raise the budget"
            )
        if "" in self.stop:
            raise ValueError("stop holds an empty text, which stands everywhere; leave it out")

    @property
    def question(self) -> str:
        """The question that is asked."""
        return self.problem if isinstance(self.problem, str) else self.problem.question


def require_room(what: str, question: str, length: int, context: int) -> None:
    """Raises a ValueError unless a model can write a token after the prompt of a question.

    Args:
        what: What has the prompt, for the message.
        question: The question.
        length: Number of tokens of the prompt.
        context: Number of positions of the model.
    """
    if length >= context:
        raise ValueError(
            f"{what} ({question[:40]!r}...): its prompt has {length} tokens and the model's "
            f"context {context}; shorten the prompt or leave the problem out"
        )


def end_of_text_ids(model: Model) -> set[int]:
    """The tokens that end a generation: the tokenizer's, and any others of the checkpoint."""
    ends = {model.tokenizer.eos_token_id, *getattr(model, "eos_token_ids", ())}
    return ends - {None}
