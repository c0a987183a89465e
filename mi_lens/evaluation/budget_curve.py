r"""Test-time scaling: accuracy at every token budget, from traces that are generated once.

A trace cut at b tokens is the trace that a budget of b tokens would have given. Where the cut comes
before the trace's own end, a final answer can be requested, as in paper 1's code: a text is
appended and a few more tokens are generated. There are five ways to spend a budget:

    plain            generate(model, problems): the trace ends where the model ends it
    TTTS, cycling    generate(model, problems, Continue(SCALING_WORDS)): at each end the next word
    TTTS, by word    continue_traces(model, traces, "So", budget): once per word, paper 1's code
    budget forcing   generate(model, problems, Continue(["Wait"])): as s1 does
    voting           vote_curve(samples): as many samples as the budget pays for
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mi_lens.common.html import table
from mi_lens.common.intervals import estimate_share
from mi_lens.common.statistics import Estimate
from mi_lens.generation.engines.lookup import engine_of
from mi_lens.generation.engines.protocol import Engine
from mi_lens.generation.generate import generate
from mi_lens.generation.request import Request, end_of_text_ids
from mi_lens.interventions.condition import Condition
from mi_lens.models.model import Model
from mi_lens.problems.answers import boxed_answer
from mi_lens.problems.grading.grader import grade
from mi_lens.traces.think_block import written_text
from mi_lens.traces.trace import Trace

FINAL_ANSWER = " Final Answer within \\boxed{}:"  # paper 1's code


@dataclass(frozen=True)
class BudgetCurve:
    """Accuracy of the same problems at several budgets.

    Attributes:
        budgets: Tokens per problem, ascending.
        correct: For every budget, whether the answer to each problem is right.
        tokens: For every budget, the tokens spent on each problem; final answers do not count.
    """

    budgets: tuple[int, ...]
    correct: tuple[tuple[bool, ...], ...]
    tokens: tuple[tuple[int, ...], ...]

    def __repr__(self) -> str:
        right = [f"{sum(c)} at {b:,}" for b, c in zip(self.budgets, self.correct, strict=True)]
        ends = right if len(right) < 4 else [right[0], "...", right[-1]]
        problems = len(self.correct[0]) if self.correct else 0
        return f"BudgetCurve({problems:,} problems; right within tokens: {', '.join(ends)})"

    def accuracy(self) -> list[Estimate]:
        """Accuracy at every budget with its score interval over problems."""
        return [estimate_share(list(map(float, correct))) for correct in self.correct]

    def mean_tokens(self) -> list[float]:
        """Tokens spent per problem, at every budget."""
        return [sum(tokens) / len(tokens) for tokens in self.tokens]

    def _repr_html_(self) -> str:
        points = zip(self.budgets, self.accuracy(), self.mean_tokens(), strict=True)
        rows = [(budget, accuracy.text, tokens) for budget, accuracy, tokens in points]
        return table(rows, ("budget, tokens", "accuracy (95 % interval)", "tokens spent, mean"))


def budget_curve(
    model: Model | Engine,
    traces: Sequence[Trace],
    budgets: Sequence[int],
    *,
    condition: Condition | None = None,
    final: str | None = FINAL_ANSWER,
    final_tokens: int = 16,
    batch_size: int = 16,
    progress: bool = False,
) -> BudgetCurve:
    r"""Accuracy at every budget, from traces generated under the largest budget.

    Args:
        model: The model or engine that generated the traces.
        traces: One trace per problem, from `generate` with problems.
        budgets: Token budgets.
        condition: Condition of the final answers; None is the baseline, as in paper 1's code. It
            may differ from the condition of the traces.
        final: Text that is appended to a cut trace to request its answer; None grades the cut text
            unchanged. The text may open a box, as "... \\boxed{"; it is graded together with the
            tokens that follow.
        final_tokens: Number of tokens of the final answer, in addition to the budget.
        batch_size: See `generate`.
        progress: See `generate`.

    Raises:
        ValueError: If there are no budgets, a budget is not positive, or a trace has no problem.
    """
    ascending = _ascending(budgets)
    problems = [trace.require_problem("to grade it by") for trace in traces]
    asked = engine_of(model).model
    tokenizer, ends = asked.tokenizer, end_of_text_ids(asked)
    cut_off = [
        (budget, i)
        for budget in ascending
        for i, trace in enumerate(traces)
        if len(trace) > budget or not _ended(trace, ends)
    ]
    cuts = [(traces[i], budget) for budget, i in cut_off]
    if final is None:
        texts = [written_text(tokenizer, trace.token_ids[:budget]) for trace, budget in cuts]
    else:
        suffix = tuple(tokenizer.encode(final, add_special_tokens=False))
        requests = [_final_request(*cut, suffix, final_tokens, condition) for cut in cuts]
        answers = (
            generate(model, requests, batch_size=batch_size, progress=progress) if requests else []
        )
        answer_ids = [
            answer.token_ids[len(request.prefix) :]
            for request, answer in zip(requests, answers, strict=True)
        ]
        texts = [final + written_text(tokenizer, ids) for ids in answer_ids]
    text_of = dict(zip(cut_off, texts, strict=True))
    correct = tuple(
        tuple(
            grade(text_of.get((budget, i), trace.text), problem).correct
            for i, (trace, problem) in enumerate(zip(traces, problems, strict=True))
        )
        for budget in ascending
    )
    tokens = tuple(tuple(min(budget, len(trace)) for trace in traces) for budget in ascending)
    return BudgetCurve(ascending, correct, tokens)


def continue_traces(
    model: Model | Engine,
    traces: Sequence[Trace],
    word: str,
    budget: int,
    *,
    condition: Condition | None = None,
    batch_size: int = 16,
    progress: bool = False,
) -> list[Trace]:
    """Continues finished traces from a thinking token, up to a budget (TTTS, paper 1's code).

    Args:
        model: The model or engine that generated the traces.
        traces: One trace per problem, from `generate` with problems.
        word: Replaces the token that ended the trace; a space is put before it.
        budget: Total number of tokens of the trace, the word and the continuation.
        condition: Condition of the continuation; None is the baseline.
        batch_size: See `generate`.
        progress: See `generate`.

    Returns:
        One trace for each; a trace that leaves no room in the budget is returned unchanged.
    """
    asked = engine_of(model).model
    tokenizer, ends = asked.tokenizer, end_of_text_ids(asked)
    word_ids = tuple(tokenizer.encode(f" {word}", add_special_tokens=False))
    longer = list(traces)
    requests = {}
    for i, trace in enumerate(traces):
        kept = trace.token_ids[: -1 if _ended(trace, ends) else None]
        if len(kept) + len(word_ids) < budget:
            requests[i] = _request(trace, (*kept, *word_ids), budget, condition)
    if requests:
        continued = generate(
            model, list(requests.values()), batch_size=batch_size, progress=progress
        )
        for i, trace in zip(requests, continued, strict=True):
            longer[i] = trace
    return longer


def vote_curve(samples: Sequence[Sequence[Trace]], budgets: Sequence[int]) -> BudgetCurve:
    """Self-consistency at equal cost: the most frequent answer among the samples within a budget.

    Args:
        samples: For every problem its sampled traces, in the order in which they were drawn.
        budgets: Tokens per problem, over all its samples. The first sample that exceeds the
            budget and all later samples have no vote. If several answers have equally many votes,
            the earliest wins.
    """
    ascending = _ascending(budgets)
    problems = [traces[0].require_problem("to grade it by") for traces in samples]
    correct, tokens = [], []
    for budget in ascending:
        votes = [_vote(traces, budget) for traces in samples]
        correct.append(
            tuple(grade(text, p).correct for (text, _), p in zip(votes, problems, strict=True))
        )
        tokens.append(tuple(spent for _, spent in votes))
    return BudgetCurve(ascending, tuple(correct), tuple(tokens))


def _vote(samples: Sequence[Trace], budget: int) -> tuple[str, int]:
    """The most frequent answer of the samples within a budget, in a box; and their tokens."""
    votes: Counter[str] = Counter()
    left = budget
    for trace in samples:
        if len(trace) > left:
            break
        left -= len(trace)
        answer = boxed_answer(trace.text)
        if answer is not None:
            votes[answer] += 1
    winner = f"\\boxed{{{votes.most_common(1)[0][0]}}}" if votes else ""
    return winner, budget - left


def _ascending(budgets: Sequence[int]) -> tuple[int, ...]:
    ascending = tuple(sorted(set(budgets)))
    if not ascending or ascending[0] < 1:
        raise ValueError(
            f"budgets={list(budgets)}: expected at least one budget, each at least 1 token"
        )
    return ascending


def _ended(trace: Trace, ends: set[int]) -> bool:
    return trace.require_steps().token_ids[-1] in ends


def _request(
    trace: Trace, prefix: tuple[int, ...], budget: int, condition: Condition | None
) -> Request:
    problem = trace.require_problem("whose prompt could be put again")
    style = trace.condition.get("style", "chat")
    return Request(problem, condition or Condition(), style, trace.seed, budget, (), prefix)


def _final_request(
    trace: Trace,
    budget: int,
    suffix: tuple[int, ...],
    final_tokens: int,
    condition: Condition | None,
) -> Request:
    """Requests `final_tokens` tokens of a final answer after a cut trace and a suffix."""
    prefix = (*trace.token_ids[:budget], *suffix)
    return _request(trace, prefix, len(prefix) + final_tokens, condition)
