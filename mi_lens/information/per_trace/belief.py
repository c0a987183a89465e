"""What the model would answer at each point of a trace, if it had to answer there."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float

from mi_lens.common.progress import tracked
from mi_lens.information.per_trace.forced_answers import (
    CLOSING,
    ForcedAnswer,
    Question,
    ask_at_cuts,
    common_beginning,
    require_room,
)
from mi_lens.models.model import Model
from mi_lens.problems.answers import given_answer
from mi_lens.traces.think_block import thinking_end
from mi_lens.traces.thoughts import split_thoughts
from mi_lens.traces.trace import Trace

Every = Literal["boundary"] | int  # Where a trace is cut: at its boundaries, or each k-th step.


@dataclass(frozen=True)
class AnswerBelief:
    """How much the model believes in one answer, at every cut of a trace.

    Attributes:
        answer: The answer's text.
        bits: -log2 of the probability that the model writes this answer and ends it, per cut.
        ranks: The largest rank of a token of the answer or of its end, each after those before it,
            per cut. It is 1 exactly where greedy decoding writes this answer and ends it. Equally
            likely tokens share the better rank.
        first_ranks: The rank of the answer's first token in the vocabulary, per cut. 1 is the
            likeliest token. Two answers may share their first token: where every digit is a token,
            7031 and 7221 do.
    """

    answer: str
    bits: tuple[float, ...]
    ranks: tuple[int, ...]
    first_ranks: tuple[int, ...]

    @property
    def probabilities(self) -> Float[np.ndarray, " cut"]:
        """The probability that the model writes this answer and ends it, per cut."""
        return np.exp2(-np.array(self.bits))


@dataclass(frozen=True)
class Belief:
    """What the model would answer at every cut of a trace.

    At a cut c the model has read the trace's first c generated tokens, and is then asked. So the
    cut stands at step c: `capture` gives the state that had read as much as row c.

    Attributes:
        trace: The trace's id.
        problem: Key of the trace's problem (`Problem.key`). None if it has no problem.
        cuts: Numbers of generated tokens before each question, in increasing order. The first is 0,
            the last is the end of the thinking: the step that emits the mark that closes the think
            block, or the trace's end.
        gold: Belief in the problem's gold answer. None if it has none.
        final: Belief in the answer that the trace itself gives. None if it gives none.
        said: The answer that greedy decoding writes at every cut. None where it does not end
            within the limit.
    """

    trace: str
    problem: str | None
    cuts: tuple[int, ...]
    gold: AnswerBelief | None
    final: AnswerBelief | None
    said: tuple[str | None, ...]


@dataclass(frozen=True)
class BeliefCost:
    """What `answer_belief` makes a model read, known before it does.

    Attributes:
        traces: Number of traces.
        cuts: Number of cuts, at each of which the model is asked.
        prefix_tokens: Tokens of prompts and traces; each is read once.
        forced_tokens: Tokens of questions and of gold and final answers, in two passes per cut.
        greedy_tokens: Tokens of the answers that the model would say, one per pass; no more than
            this, and none where it says the gold or the final answer.
    """

    traces: int
    cuts: int
    prefix_tokens: int
    forced_tokens: int
    greedy_tokens: int

    def __str__(self) -> str:
        return (
            f"{self.traces:,} traces are read once ({self.prefix_tokens:,} tokens) and asked at "
            f"{self.cuts:,} cuts ({self.forced_tokens:,} tokens of questions and answers, and at "
            f"most {self.greedy_tokens:,} of what the model would say)"
        )


def belief_cost(
    model: Model,
    traces: Sequence[Trace],
    *,
    every: Every = "boundary",
    asking: str | None = None,
    closing: str = CLOSING,
    tokens: int = 16,
) -> BeliefCost:
    """What `answer_belief` would make the model read. Only the tokenizer works for this.

    Arguments and errors are those of `answer_belief`.
    """
    question = Question.of(model, asking, closing)
    plans = [_Plan.of(model, trace, every, question, tokens) for trace in traces]
    return _cost(plans, question, tokens)


@torch.inference_mode()
def answer_belief(
    model: Model,
    traces: Sequence[Trace],
    *,
    every: Every = "boundary",
    asking: str | None = None,
    closing: str = CLOSING,
    tokens: int = 16,
    progress: bool = False,
) -> list[Belief]:
    r"""What the model would answer at each point of its thinking, if it had to answer there.

    At a cut the think block is left and the model is asked. So one sees how early an answer can be
    had from what stands there, and when it changes (early forced answering, as in arXiv 2603.05488
    and 2604.06613). Forced answers are a lower bound of what the model knows: the question is not
    its own text, and other work finds answers by free continuation where forced ones fail.

    The model reads each trace once, under the interventions that it was written under, and the
    question at each cut without them. No prefix is read twice; what all of it costs is told before
    it starts (`belief_cost`).

    The probability is that of the answer's text followed by `closing`, as the tokenizer writes it
    (`mi_lens.information.per_trace.forced_answers`). An answer that means the same and is written
    otherwise, as 0.5 for 1/2, is another text. The rank of an answer among all answers cannot be
    had; `AnswerBelief` says which ranks there are.

    Args:
        model: The model, with its tokenizer.
        traces: The traces. A final answer is what `mi_lens.grade` takes for the answer of a text:
            boxed or stated; in a trace that was cut off, it may stand in the thinking.
        every: Where to cut. "boundary" cuts before the boundary that opens each thought; a number k
            cuts before each k-th generated token. Both cut at the start and at the thinking's end
            too, and nowhere behind it.
        asking: The text between a cut and the answer. It should be the text with which the model
            itself ends. To check this, look at the last cut: the final answer should be almost
            certain. None leaves the think block as models of the tokenizer's kind do, such as by
            "</think>", and says "The final answer is", with an open box.
        closing: The text that ends the answer.
        tokens: Largest number of tokens of what the model would say, its end included.
        progress: Whether to show the cost and the progress on stderr.

    Returns:
        One belief per trace, in order.

    Raises:
        ValueError: If a trace has no token ids, or does not fit the model's context with the
            question; if `every` is neither "boundary" nor a positive number; if the question and an
            answer cannot be told apart in tokens; or if no token begins with `closing`.
    """
    question = Question.of(model, asking, closing)
    plans = [_Plan.of(model, trace, every, question, tokens) for trace in traces]
    if progress:
        print(f"answer belief: {_cost(plans, question, tokens)}", file=sys.stderr)
    return [
        _believed(model, plan, question, tokens)
        for plan in tracked(plans, "ask", "trace", progress)
    ]


def belief_cuts(tokenizer: Any, trace: Trace, every: Every = "boundary") -> tuple[int, ...]:
    """The numbers of generated tokens after which `answer_belief` asks, in increasing order.

    Raises:
        ValueError: If `every` is neither "boundary" nor a positive number.
    """
    if every != "boundary" and (isinstance(every, bool) or not every > 0):
        raise ValueError(f"every={every!r}: expected 'boundary' or a number of steps, at least 1")
    end = thinking_end(tokenizer, trace.require_steps().prompt_ids, trace.token_ids)
    if every == "boundary":
        at = [thought.start - 1 for thought in split_thoughts(tokenizer, trace)]
    else:
        at = range(0, end, every)
    return tuple(sorted({0, *(cut for cut in at if 0 <= cut < end), end}))


@dataclass(frozen=True)
class _Plan:
    """What a trace is asked, and where."""

    trace: Trace
    cuts: tuple[int, ...]
    gold: ForcedAnswer | None
    final: ForcedAnswer | None

    @classmethod
    def of(
        cls, model: Model, trace: Trace, every: Every, question: Question, tokens: int
    ) -> "_Plan":
        if tokens < 1:
            raise ValueError(f"tokens={tokens}: expected at least 1")
        gold = trace.problem.answer.strip() if trace.problem else ""
        texts = (gold, given_answer(trace.text)[0])
        answers = [ForcedAnswer.of(question, text) if text else None for text in texts]
        plan = cls(trace, belief_cuts(model.tokenizer, trace, every), *answers)
        longest = max(tokens, *(len(answer.path) for answer in plan.answers), 0)
        require_room(model, trace, plan.cuts, question, longest)
        return plan

    @property
    def answers(self) -> list[ForcedAnswer]:
        return [answer for answer in (self.gold, self.final) if answer is not None]

    def forced_tokens(self, question: Question) -> int:
        """Tokens of the question and of the answers at one cut; shared ones are read once."""
        paths = [answer.path for answer in self.answers]
        shared = common_beginning(*paths) if len(paths) == 2 else ()
        return len(question.read) + sum(map(len, paths)) - len(shared)


def _cost(plans: Sequence[_Plan], question: Question, tokens: int) -> BeliefCost:
    return BeliefCost(
        traces=len(plans),
        cuts=sum(len(plan.cuts) for plan in plans),
        prefix_tokens=sum(len(plan.trace.prompt_ids) + plan.cuts[-1] for plan in plans),
        forced_tokens=sum(len(plan.cuts) * plan.forced_tokens(question) for plan in plans),
        greedy_tokens=sum(len(plan.cuts) for plan in plans) * (tokens - 1),
    )


def _believed(model: Model, plan: _Plan, question: Question, tokens: int) -> Belief:
    longest = max(tokens, *(len(answer.path) for answer in plan.answers), 0)
    numbers, said = [], []
    for _, asked in ask_at_cuts(model, plan.trace, plan.cuts, question, longest):
        numbers += [asked.belief(answer) for answer in plan.answers]
        said.append(asked.greedy(tokens))
    # One copy from the device per trace, of (cut, answer, number), from the last cut to the first.
    shape = (len(plan.cuts), len(plan.answers), 3)
    table = torch.stack(numbers).reshape(shape).flip(0).tolist() if numbers else []
    beliefs = [
        AnswerBelief(
            answer.text,
            bits=tuple(at_cut[place][0] for at_cut in table),
            ranks=tuple(int(at_cut[place][1]) for at_cut in table),
            first_ranks=tuple(int(at_cut[place][2]) for at_cut in table),
        )
        for place, answer in enumerate(plan.answers)
    ]
    return Belief(
        trace=plan.trace.id,
        problem=plan.trace.problem.key if plan.trace.problem else None,
        cuts=plan.cuts,
        gold=beliefs[0] if plan.gold else None,
        final=beliefs[-1] if plan.final else None,
        said=tuple(reversed(said)),
    )
