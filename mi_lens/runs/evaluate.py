"""mi-lens evaluate: tries conditions on the same problems and writes the results to a folder."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path

from mi_lens.common.parquet import write_table
from mi_lens.common.records import file_checksum, write_record
from mi_lens.common.writing import only_writer, writing
from mi_lens.evaluation.condition_sets import Made, is_set, kept_sets
from mi_lens.evaluation.evaluate import (
    LAST_WRITTEN,
    Evaluation,
    evaluate_with,
    requests_of,
    require_names,
)
from mi_lens.generation.plan import Plan
from mi_lens.interventions.condition import Condition, parse_condition, parse_intervention
from mi_lens.problems.problem import Problem
from mi_lens.runs.config import EvaluateConfig
from mi_lens.runs.folder import open_run, problems_record
from mi_lens.runs.sets_of_run import make_sets, parse_set, problems_for


def run_evaluate(config: EvaluateConfig) -> Evaluation:
    """Evaluates and writes to `config.out`; a run that was killed continues where it stopped.

    Raises:
        ValueError: For the reasons of `evaluate`.
        FileExistsError: If the folder holds anything other than this run.
    """
    problems = config.load_problems(config.seed)
    named = conditions_of(config)
    sets = {text: parse_set(text) for text in config.conditions if is_set(text)}
    for_sets = problems_for(config, sets, problems)
    with ExitStack() as stack:
        plan = _plan(config, stack)
        plain = Condition((), config.sampling())  # That of every set.
        _require_runnable(plan, config, problems, named or [plain])
        of_sets = {text: problems_record(problems) for text, problems in for_sets.items()}
        folder = open_run(config, plan.fingerprint, plan.engine.name, problems, named, of_sets)
        with only_writer(folder), writing(folder / "run.json"):
            made = kept_sets(folder)
            if sets and not made:
                made = make_sets(config, sets, for_sets, folder, plan)
                if not plan.engine.own:
                    plan = _plan(config, stack)
            conditions = conditions_of(config, made)
            return _evaluate_into(folder, config, plan, problems, conditions)


def _require_runnable(
    plan: Plan, config: EvaluateConfig, problems: Sequence[Problem], conditions: Sequence[Condition]
) -> None:
    """Fails, if it must, before the folder is created."""
    requests = requests_of(
        problems,
        conditions,
        config.seeds,
        style=config.style,
        max_new_tokens=config.max_new_tokens,
        stop=config.stop,
    )
    for index, request in enumerate(requests):
        plan.job(index, request)


def _plan(config: EvaluateConfig, stack: ExitStack) -> Plan:
    return Plan(stack.enter_context(closing(config.load_engine(config.model))))


def _evaluate_into(
    folder: Path,
    config: EvaluateConfig,
    plan: Plan,
    problems: Sequence[Problem],
    conditions: Sequence[Condition],
) -> Evaluation:
    evaluation = evaluate_with(
        plan,
        problems,
        conditions,
        config.seeds,
        style=config.style,
        max_new_tokens=config.max_new_tokens,
        stop=config.stop,
        batch_size=config.batch_size,
        folder=folder,
        owns_folder=True,
    )
    write_table(map(asdict, evaluation.results), folder / "results.parquet")
    write_record(
        folder / LAST_WRITTEN,
        {
            "setting": evaluation.setting,
            "conditions": evaluation.conditions,
            "results": file_checksum(folder / "results.parquet"),
            "accuracy": {
                name: asdict(evaluation.arm(name).accuracy()) for name in evaluation.names
            },
            "comparisons": [asdict(comparison) for comparison in evaluation.comparisons()],
        },
    )
    return evaluation


def conditions_of(
    config: EvaluateConfig, made: Mapping[str, Made] | None = None
) -> list[Condition]:
    """The conditions of a run, in order; in each, those of `config.intervene` act first.

    Args:
        config: The run.
        made: Its sets of conditions, by their texts; None leaves them out.

    Raises:
        ValueError: If a text is no condition, or two conditions share a name.
    """
    common = tuple(parse_intervention(text, import_modules=True) for text in config.intervene)
    conditions: list[Condition] = []
    for text in config.conditions:
        if not is_set(text):
            conditions.append(parse_condition(text, import_modules=True))
        elif made is not None:
            conditions += made[text].conditions
    sampling = config.sampling()
    conditions = [Condition((*common, *c.interventions), sampling, c.name) for c in conditions]
    if conditions or made is not None:
        require_names(conditions)
    return conditions
