"""mi-lens evaluate: tries conditions on the same problems and writes the results to a folder."""

from contextlib import closing
from dataclasses import asdict

from mi_lens.common.parquet import write_table
from mi_lens.common.records import file_checksum, write_record
from mi_lens.common.writing import only_writer, writing
from mi_lens.evaluation.evaluate import (
    LAST_WRITTEN,
    Evaluation,
    evaluate_with,
    requests_of,
    require_names,
)
from mi_lens.generation.plan import Plan
from mi_lens.interventions.condition import Condition, parse_condition, parse_intervention
from mi_lens.runs.config import EvaluateConfig
from mi_lens.runs.folder import open_run


def run_evaluate(config: EvaluateConfig) -> Evaluation:
    """Evaluates and writes to `config.out`; a run that was killed continues where it stopped.

    Raises:
        ValueError: For the reasons of `evaluate`.
        FileExistsError: If the folder holds anything other than this run.
    """
    problems = config.load_problems(config.seed)
    conditions = conditions_of(config)
    with closing(config.load_engine(config.model)) as engine:
        plan = Plan(engine)
        requests = requests_of(
            problems,
            conditions,
            config.seeds,
            style=config.style,
            max_new_tokens=config.max_new_tokens,
            stop=config.stop,
        )
        for index, request in enumerate(requests):
            plan.job(index, request)  # fails, if it must, before the folder is created
        folder = open_run(config, plan.fingerprint, engine.name, problems, conditions)
        with only_writer(folder), writing(folder / "run.json"):
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


def conditions_of(config: EvaluateConfig) -> list[Condition]:
    """The conditions of a run; in each, the interventions of `config.intervene` act first.

    Raises:
        ValueError: If a text is no condition, or two conditions share a name.
    """
    common = [parse_intervention(text, import_modules=True) for text in config.intervene]
    conditions = []
    for text in config.conditions:
        condition = parse_condition(text, import_modules=True)
        interventions = (*common, *condition.interventions)
        conditions.append(Condition(interventions, config.sampling(), condition.name))
    require_names(conditions)
    return conditions
