r"""Test-time scaling: accuracy at every token budget, from traces that are generated once.

A trace cut at b tokens is what a budget of b tokens would have given. Where the cut comes before
the trace's own end, a final answer can be asked for, as paper 1's code does: a text is appended and
a few more tokens are read. Four ways to spend a budget:

    plain            generate(model, problems): the trace ends when the model ends it
    TTTS, cycling    generate(model, problems, Continue(SCALING_WORDS)): at every end, a word more
    TTTS, by word    continue_traces(model, traces, "So", budget): paper 1's code, once a word
    budget forcing   generate(model, problems, Continue(["Wait"])): s1's
    voting           vote_curve(samples): samples one after the other while tokens last
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mi_lens.common.html import table
from mi_lens.common.statistics import Estimate, estimate_mean
from mi_lens.generation.generate import generate
from mi_lens.generation.request import Request, end_of_text_ids
from mi_lens.interventions.condition import Condition
from mi_lens.problems.answers import boxed_answer
from mi_lens.problems.grading.grader import grade
from mi_lens.traces.trace import Trace

FINAL_ANSWER = " Final Answer within \\boxed{}:"  # paper 1's code


@dataclass(frozen=True)
class BudgetCurve:
    """Accuracy of the same problems at several budgets.

    Attributes:
        budgets: Tokens a problem, ascending.
        correct: For every budget, whether each problem was answered rightly.
        tokens: For every budget, the tokens spent on each problem, final answers left out.
    """

    budgets: tuple[int, ...]
    correct: tuple[tuple[bool, ...], ...]
    tokens: tuple[tuple[int, ...], ...]

    def accuracy(self, *, seed: int = 0) -> list[Estimate]:
        """Accuracy at every budget with its bootstrap interval over problems."""
        return [estimate_mean([float(c) for c in row], seed=seed) for row in self.correct]

    def mean_tokens(self) -> list[float]:
        """Tokens spent a problem, at every budget."""
        return [sum(row) / len(row) for row in self.tokens]

    def _repr_html_(self) -> str:
        spent = zip(self.budgets, self.accuracy(), self.mean_tokens(), strict=True)
        rows = [(budget, accuracy.text, tokens) for budget, accuracy, tokens in spent]
        return table(rows, ("budget, tokens", "accuracy (95 % interval)", "tokens spent, mean"))


def budget_curve(
    model,
    traces: Sequence[Trace],
    budgets: Sequence[int],
    *,
    condition: Condition | None = None,
    final: str | None = FINAL_ANSWER,
    final_tokens: int = 16,
    batch_size: int = 16,
    progress: bool = False,
) -> BudgetCurve:
    r"""Accuracy at every budget, from traces made under the largest.

    Args:
        model: The model that made the traces.
        traces: One a problem, made by `generate` with problems.
        budgets: Token budgets.
        condition: Under which final answers are generated; None is the baseline, which is what
            paper 1's code has. What the traces were made under does not count here.
        final: Appended to a cut trace before its answer is taken; None grades the cut text as it
            stands. A text that opens a box, as "... \\boxed{", is graded with what follows.
        final_tokens: Tokens of the final answer, on top of the budget.
        batch_size: See `generate`.
        progress: See `generate`.

    Raises:
        ValueError: If there are no budgets, one is not positive, or a trace has no problem.
    """
    ordered = _check(budgets)
    problems = [trace.require_problem("to grade it by") for trace in traces]
    rows, spent = [], []
    ends = end_of_text_ids(model)
    for budget in ordered:
        cuts = [trace.token_ids[:budget] for trace in traces]
        cut_off = [i for i, t in enumerate(traces) if len(t) > budget or not _ended(t, ends)]
        texts = [trace.text for trace in traces]
        for i in cut_off:
            texts[i] = model.tokenizer.decode(cuts[i], skip_special_tokens=True)
        if final is not None and cut_off:
            answers = _final_answers(
                model, [traces[i] for i in cut_off], [cuts[i] for i in cut_off], condition, final,
                final_tokens, batch_size, progress,
            )  # fmt: skip
            for i, answer in zip(cut_off, answers, strict=True):
                texts[i] = answer
        rows.append(tuple(grade(t, p).correct for t, p in zip(texts, problems, strict=True)))
        spent.append(tuple(map(len, cuts)))
    return BudgetCurve(ordered, tuple(rows), tuple(spent))


def continue_traces(
    model,
    traces: Sequence[Trace],
    word: str,
    budget: int,
    *,
    condition: Condition | None = None,
    batch_size: int = 16,
    progress: bool = False,
) -> list[Trace]:
    """Goes on from finished traces with a thinking token, up to a budget (TTTS, paper 1's code).

    Args:
        model: The model that made the traces.
        traces: One a problem, made by `generate` with problems.
        word: Appended after a space in the place of the token that ended the trace.
        budget: Tokens of trace, word and continuation together.
        condition: Of the continuation; None is the baseline.
        batch_size: See `generate`.
        progress: See `generate`.

    Returns:
        A trace for each: those that had already spent the budget as they are.
    """
    ends = end_of_text_ids(model)
    text = tuple(model.tokenizer.encode(f" {word}", add_special_tokens=False))
    longer = list(traces)
    requests = {}
    for i, trace in enumerate(traces):
        kept = trace.token_ids[: -1 if _ended(trace, ends) else None]
        if len(kept) + len(text) < budget:
            requests[i] = _request(trace, (*kept, *text), budget, condition)
    if requests:
        made = generate(model, list(requests.values()), batch_size=batch_size, progress=progress)
        for i, trace in zip(requests, made, strict=True):
            longer[i] = trace
    return longer


def vote_curve(samples: Sequence[Sequence[Trace]], budgets: Sequence[int]) -> BudgetCurve:
    """Self-consistency at equal tokens: the commonest answer of what a budget pays for.

    Args:
        samples: For every problem its sampled traces, in the order in which they are drawn.
        budgets: Tokens a problem over all its samples. A sample that a budget does not pay whole
            has no vote; of answers with equally many votes the one found first wins.
    """
    ordered = _check(budgets)
    rows, spent = [], []
    for budget in ordered:
        right, used = [], []
        for traces in samples:
            votes: Counter[str] = Counter()
            left = budget
            for trace in traces:
                if len(trace) > left:
                    break
                left -= len(trace)
                answer = boxed_answer(trace.text)
                if answer is not None:
                    votes[answer] += 1
            winner = f"\\boxed{{{votes.most_common(1)[0][0]}}}" if votes else ""
            right.append(grade(winner, traces[0].require_problem("to grade it by")).correct)
            used.append(budget - left)
        rows.append(tuple(right))
        spent.append(tuple(used))
    return BudgetCurve(ordered, tuple(rows), tuple(spent))


def _check(budgets: Sequence[int]) -> tuple[int, ...]:
    ordered = tuple(sorted(set(budgets)))
    if not ordered or ordered[0] < 1:
        raise ValueError(f"budgets={list(budgets)}: expected at least one, each at least 1 token")
    return ordered


def _ended(trace: Trace, ends: set[int]) -> bool:
    return trace.token_ids[-1] in ends


def _request(
    trace: Trace, prefix: tuple[int, ...], budget: int, condition: Condition | None
) -> Request:
    problem = trace.require_problem("whose prompt could be put again")
    style = trace.condition.get("style", "chat")
    return Request(problem, condition or Condition(), style, trace.seed, budget, (), prefix)


def _final_answers(
    model,
    traces: Sequence[Trace],
    cuts: Sequence[tuple[int, ...]],
    condition: Condition | None,
    final: str,
    final_tokens: int,
    batch_size: int,
    progress: bool,
) -> list[str]:
    asked = tuple(model.tokenizer.encode(final, add_special_tokens=False))
    requests = [
        _request(trace, (*cut, *asked), len(cut) + len(asked) + final_tokens, condition)
        for trace, cut in zip(traces, cuts, strict=True)
    ]
    made = generate(model, requests, batch_size=batch_size, progress=progress)
    return [
        final + model.tokenizer.decode(
            trace.token_ids[len(request.prefix) :], skip_special_tokens=True
        )
        for trace, request in zip(made, requests, strict=True)
    ]  # fmt: skip
