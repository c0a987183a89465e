"""mi-lens evaluate: conditions on the same problems, into a folder."""

from dataclasses import asdict

from mi_lens.common.files import write_json
from mi_lens.common.parquet import write_table
from mi_lens.evaluation.evaluate import Evaluation, evaluate, require_names
from mi_lens.interventions.condition import Condition, parse_condition, parse_intervention
from mi_lens.interventions.sampling import Sampling
from mi_lens.models.fingerprint import model_fingerprint
from mi_lens.models.loading import load
from mi_lens.problems.loading import load_problems
from mi_lens.runs.config import EvaluateConfig
from mi_lens.runs.folder import open_run


def run_evaluate(config: EvaluateConfig) -> Evaluation:
    """Evaluates into `config.out`; a run that was killed continues where it was.

    Raises:
        ValueError: As `evaluate`.
        FileExistsError: If the folder holds something else.
    """
    problems = load_problems(
        config.problems, limit=config.limit, split=config.split, seed=config.seed
    )
    sampling = Sampling(config.temperature, config.top_p, config.top_k, config.min_p)
    common = tuple(map(parse_intervention, config.intervene))
    conditions = []
    for text in config.conditions:
        one = parse_condition(text)
        conditions.append(Condition((*common, *one.interventions), sampling, one.name))
    require_names(conditions)
    model = load(config.model, backend=config.backend, dtype=config.dtype, device=config.device)
    for condition in conditions:
        for intervention in condition.interventions:
            intervention.bind(model)  # refuses what does not fit before there is a folder
    folder = open_run(config, model_fingerprint(model))
    found = evaluate(
        model, problems, conditions, config.seeds, style=config.style,
        max_new_tokens=config.max_new_tokens, stop=config.stop, batch_size=config.batch_size,
        folder=folder,
    )  # fmt: skip
    write_table(map(asdict, found.results), folder / "results.parquet")
    write_json(
        folder / "evaluation.json",
        {
            "setting": found.setting,
            "conditions": found.conditions,
            "accuracy": {name: asdict(found.arm(name).accuracy()) for name in found.names},
            "comparisons": [asdict(one) for one in found.comparisons()],
        },
    )
    return found
