"""mi-lens generate: a trace for every problem, into a folder."""

from mi_lens.generation.resume import generate_into
from mi_lens.models.fingerprint import model_fingerprint
from mi_lens.runs.analyze import _model, _problems, _requests
from mi_lens.runs.config import GenerateConfig
from mi_lens.runs.folder import open_run
from mi_lens.traces.trace import Trace


def run_generate(config: GenerateConfig) -> list[Trace]:
    """Generates traces into `config.out`/traces.jsonl; continues a run that was killed."""
    problems = _problems(config)
    model = _model(config)
    requests = _requests(config, model, problems)
    folder = open_run(config, model_fingerprint(model))
    return generate_into(folder, model, requests, batch_size=config.batch_size)
