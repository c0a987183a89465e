"""The sets of conditions of a run: made once from the model's own traces, then kept in its folder.

Their problems are others than those that are evaluated. The engine of the run writes the traces;
states are read by a HookedTransformer or TransformerBridge.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mi_lens.common.calls import from_call
from mi_lens.evaluation.condition_sets import ConditionSet, Made, keep_sets
from mi_lens.evaluation.reasoning_controls import Controls
from mi_lens.generation.plan import Plan
from mi_lens.generation.request import Request
from mi_lens.generation.resume import generate_into
from mi_lens.interventions.condition import MARK, Condition
from mi_lens.problems.loading import load_problems
from mi_lens.problems.problem import Problem, overlap
from mi_lens.runs.config import EvaluateConfig

SETS = {"controls": Controls}  # What "@controls" is made by.
TRACES = "for_sets"  # The folder of the traces that sets are made from.


def parse_set(text: str) -> ConditionSet:
    """A set from a text such as "@controls" or "@controls(limit=100)".

    Raises:
        ValueError: If there is no such set, or a setting is unknown or impossible.
    """
    call = text.strip().removeprefix(MARK)
    return from_call(
        call if "(" in call else f"{call}()",
        _set_named,
        what="set of conditions",
        example="controls(limit=100)",
    )


def _set_named(name: str) -> Any:
    if name not in SETS:
        raise ValueError(f"set of conditions {MARK}{name}: expected one of {sorted(SETS)}")
    return SETS[name]


def problems_for(
    config: EvaluateConfig, sets: Mapping[str, ConditionSet], evaluated: Sequence[Problem]
) -> dict[str, list[Problem]]:
    """The problems that each set is made from, by its text.

    Raises:
        ValueError: If one of them is evaluated too, or for the reasons of `load_problems`.
    """
    problems = {}
    for text, settings in sets.items():
        source = settings.problems or config.problems
        problems[text] = load_problems(
            source, limit=settings.limit, split="train", seed=config.seed
        )
        if common := overlap(problems[text], evaluated):
            raise ValueError(
                f"{text}: {len(common)} of its {len(problems[text])} problems from {source!r} are "
                f"evaluated too, {common[0][0].id} first; name others, as in "
                "\"@controls(problems='math-train')\""
            )
    return problems


def make_sets(
    config: EvaluateConfig,
    sets: Mapping[str, ConditionSet],
    problems: Mapping[str, Sequence[Problem]],
    folder: Path,
    plan: Plan,
) -> dict[str, Made]:
    """Makes the sets of a run and keeps them; says which of their conditions are left out.

    An engine other than our own loop is closed before a model is loaded, to free its memory.
    """
    plain = Condition((), config.sampling())
    (folder / TRACES).mkdir(exist_ok=True)
    traces = {
        text: generate_into(
            folder / TRACES,
            plan,
            [
                Request(
                    problem,
                    plain,
                    config.style,
                    config.seeds[0],
                    config.max_new_tokens,
                    tuple(config.stop),
                )
                for problem in problems[text]
            ],
            batch_size=config.batch_size,
        )
        for text in sets
    }
    plan.engine.close()
    model = plan.model if plan.engine.own else config.load_model(config.model)
    made = {
        text: _able(plan, config, settings.make(model, traces[text]))
        for text, settings in sets.items()
    }
    for text, of_text in made.items():
        for name, why in of_text.left_out.items():
            print(f"{text} leaves out {name!r}: {why}", file=sys.stderr)
    keep_sets(folder, made)
    return made


def _able(plan: Plan, config: EvaluateConfig, made: Made) -> Made:
    """The set without the conditions that the engine cannot run."""
    conditions, left_out = [], dict(made.left_out)
    for condition in made.conditions:
        try:
            plan.job(0, Request("?", condition, config.style, 0, config.max_new_tokens))
        except ValueError as error:
            left_out[condition.name] = str(error)
        else:
            conditions.append(condition)
    return Made(tuple(conditions), left_out)
