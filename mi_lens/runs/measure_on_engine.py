"""The measurements of a run's traces by the engine that wrote them, where its states are."""

from collections.abc import Generator, Sequence
from functools import cache
from random import Random
from typing import Any

from mi_lens.generation.engines.protocol import Engine
from mi_lens.generation.engines.trace_numbers import Compared
from mi_lens.generation.engines.vllm_measuring import TraceReader
from mi_lens.generation.plan import Plan
from mi_lens.information.per_trace.measurement import Measurement
from mi_lens.problems.endings import AnswerSite, Ending, endings_of
from mi_lens.problems.problem import Problem
from mi_lens.runs.config import AnalyzeConfig
from mi_lens.states.answer_state import AnswerTokens, answer_tokens
from mi_lens.traces.trace import Trace


def reading_engine(engine: Engine) -> TraceReader:
    """An engine as what reads traces.

    Raises:
        ValueError: If it does not read traces.
    """
    if not isinstance(engine, TraceReader):
        raise ValueError(
            f"read_with='engine': the engine {engine.name} does not read traces; leave read_with "
            "out, and the model reads"
        )
    return engine


def measured_on_engine(
    config: AnalyzeConfig,
    plan: Plan,
    traces: Sequence[Trace],
    waiting: Sequence[Trace],
    hook_names: Sequence[str],
) -> Generator[dict[str, Measurement], None, None]:
    """For every waiting trace, its measurements by hook name.

    Args:
        config: The settings of the run.
        plan: The plan with the engine.
        traces: All traces of the run, of whose problems the other answers are.
        waiting: Those that are measured.
        hook_names: Where.

    Raises:
        ValueError: See `TraceReader.measure`; or if a trace has no problem.
    """
    problems = list(dict.fromkeys(t.problem for t in traces if t.problem is not None))
    compared = Comparisons(config, plan.model.tokenizer, problems)
    yield from reading_engine(plan.engine).measure(
        waiting,
        [
            compared.of(trace.require_problem("whose answer its states are compared with"))
            for trace in waiting
        ],
        hook_names,
        sigma=config.sigma,
        rule=config.peak_rule(),
        seed=config.seed,
    )


class Comparisons:
    """Which answers the traces of a run are compared with, as tokens.

    Args:
        config: The settings of the run.
        tokenizer: The model's.
        problems: All problems of the run's traces.
    """

    def __init__(self, config: AnalyzeConfig, tokenizer: Any, problems: Sequence[Problem]):
        self.config, self.problems = config, problems

        @cache
        def tokens(problem: Problem, site: AnswerSite, ending: Ending) -> AnswerTokens:
            return answer_tokens(
                tokenizer, problem, site=site, template=config.template, ending=ending
            )

        self._tokens = tokens

    def of(self, problem: Problem) -> Compared:
        """Those of a problem."""
        site, ending = self.config.site, self.config.ending
        last: AnswerSite = "answer_last" if site == "answer_mean" else site
        return Compared(
            answer=self._tokens(problem, site, ending),
            others=tuple(
                self._tokens(other, site, ending)
                for other in other_problems(self.config, self.problems, problem)
            ),
            endings={
                other: self._tokens(problem, site, other) for other in endings_of(problem, site)
            },
            after=self._tokens(problem, last, ending),
        )


def other_problems(
    config: AnalyzeConfig, problems: Sequence[Problem], problem: Problem
) -> list[Problem]:
    """Other problems with other answers, drawn for a problem."""
    candidates = [other for other in problems if other.answer != problem.answer]
    return Random(f"{config.seed}/{problem.id}").sample(
        candidates, min(len(candidates), config.mismatched)
    )
