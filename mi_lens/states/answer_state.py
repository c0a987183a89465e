"""The state of a gold answer, h_y, with which every state of a trace is compared."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

from jaxtyping import Float
from torch import Tensor

from mi_lens.common.float64 import in_float64
from mi_lens.models.hook_names import HookNames, match_hook_names
from mi_lens.models.model import Model
from mi_lens.problems.endings import AnswerSite, Ending, answer_text
from mi_lens.problems.problem import Problem
from mi_lens.problems.prompts import encode, encode_prompt
from mi_lens.states.segments import last_states


@dataclass(frozen=True)
class AnswerTokens:
    """A gold answer as tokens, and where among them its state is.

    Attributes:
        ids: The token ids that a model reads.
        read: How many last tokens the state is of.
        mean: Whether it is the mean of their states; if not, `read` is 1.
    """

    ids: tuple[int, ...]
    read: int = 1
    mean: bool = False

    def state(self, states: Float[Tensor, "read d"]) -> Float[Tensor, "d"]:
        """The answer state of the states at the last `read` tokens, in their dtype."""
        return in_float64(states).mean(0).to(states) if self.mean else states[-1].clone()


def answer_tokens(
    tokenizer: Any,
    problem: Problem,
    *,
    site: AnswerSite = "solution_last",
    template: bool = False,
    ending: Ending = "as_written",
) -> AnswerTokens:
    """What a model reads for a problem's answer state; arguments and errors as `answer_state`."""
    text = answer_text(problem, site, ending)
    alone = tokenizer.encode(text, add_special_tokens=False)
    if template:
        _, before = encode_prompt(tokenizer, problem.question)
        ids = (*before, *alone)
    else:
        ids = encode(tokenizer, text, templated=False)
    mean = site == "answer_mean"
    return AnswerTokens(tuple(ids), len(alone) if mean else 1, mean)


@overload
def answer_state(
    model: Model,
    problem: Problem,
    hook_names: HookNames,
    *,
    site: AnswerSite = "solution_last",
    template: bool = False,
    ending: Ending = "as_written",
) -> dict[str, Float[Tensor, "d"]]: ...


@overload
def answer_state(
    model: Model,
    problem: Sequence[Problem],
    hook_names: HookNames,
    *,
    site: AnswerSite = "solution_last",
    template: bool = False,
    ending: Ending = "as_written",
) -> list[dict[str, Float[Tensor, "d"]]]: ...


def answer_state(
    model: Model,
    problem: Problem | Sequence[Problem],
    hook_names: HookNames,
    *,
    site: AnswerSite = "solution_last",
    template: bool = False,
    ending: Ending = "as_written",
) -> dict[str, Float[Tensor, "_"]] | list[dict[str, Float[Tensor, "_"]]]:
    """The state of a problem's gold answer, h_y, at every hook name.

    Args:
        model: A HookedTransformer or TransformerBridge with its tokenizer.
        problem: The problem, or a list of problems. The model reads its `solution` or its `answer`.
        hook_names: Hook names, patterns or a filter, as for `capture`.
        site: Where the state is taken: "solution_last", the last token of the worked solution
            (paper 1's code); "answer_last", the last token of the answer; "answer_mean", the mean
            over the answer's tokens.
        template: If true, the model reads the text as the reply to the question under the chat
            template. If false, it reads the text alone, after the special tokens that the tokenizer
            puts before plain text (paper 1's code).
        ending: How the text ends; see `mi_lens.problems.endings.answer_text`. The answer's last
            characters can decide where MI peaks.

    Returns:
        A mapping from each hook name to the state, shape (d,); for a list of problems, a list of
        these.

    Raises:
        ValueError: If the site or the ending is unknown, or the problem lacks the solution or
            answer that they need.
    """
    names = match_hook_names(model, hook_names)
    if isinstance(problem, Sequence):
        return [
            answer_state(model, p, names, site=site, template=template, ending=ending)
            for p in problem
        ]
    tokens = answer_tokens(model.tokenizer, problem, site=site, template=template, ending=ending)
    (states,) = last_states(model, [tokens.ids], names, [tokens.read])
    return {name: tokens.state(of_tokens) for name, of_tokens in states.items()}
