"""mi-lens generate: writes one trace per problem to a folder."""

from collections.abc import Sequence
from contextlib import closing

from mi_lens.common.checked_types import require_distinct
from mi_lens.common.records import set_aside_foreign, write_record
from mi_lens.common.writing import only_writer, writing
from mi_lens.generation.plan import Plan
from mi_lens.generation.request import Request
from mi_lens.generation.resume import generate_into
from mi_lens.interventions.condition import Condition, parse_intervention
from mi_lens.problems.problem import Problem
from mi_lens.runs.config import GenerateConfig
from mi_lens.runs.folder import open_run
from mi_lens.traces.trace import Trace

LAST_WRITTEN = "generated.json"  # A run is finished once its folder has this file.


def run_generate(config: GenerateConfig) -> list[Trace]:
    """Generates traces and writes them to `config.out`/traces.jsonl; continues a killed run."""
    problems = config.load_problems(config.seed)
    with closing(config.load_engine(config.model)) as engine:
        plan = Plan(engine)
        requests = requests_of(config, plan, problems)
        folder = open_run(config, plan.fingerprint, engine.name, problems, conditions_of(requests))
        with only_writer(folder), writing(folder / "run.json"):
            set_aside_foreign(folder / "traces.jsonl", "id", list(map(plan.trace_id, requests)))
            traces = generate_into(folder, plan, requests, batch_size=config.batch_size)
            write_record(folder / LAST_WRITTEN, {"traces": [trace.id for trace in traces]})
    return traces


def conditions_of(requests: Sequence[Request]) -> list[Condition]:
    """The conditions of requests, each once."""
    return list({id(request.condition): request.condition for request in requests}.values())


def requests_of(config: GenerateConfig, plan: Plan, problems: Sequence[Problem]) -> list[Request]:
    """The requests of a run, one per problem.

    Raises:
        ValueError: If a request does not fit the model or the engine, or two problems have the
            same id.
    """
    require_distinct("problems", [problem.id for problem in problems])
    interventions = (parse_intervention(text, import_modules=True) for text in config.intervene)
    condition = Condition(tuple(interventions), config.sampling())
    requests = [
        Request(problem, condition, config.style, config.seed, config.max_new_tokens, config.stop)
        for problem in problems
    ]
    for index, request in enumerate(requests):
        plan.job(index, request)  # refuses a request that does not fit the model
    return requests
