"""The demo: both pocket models on the same problems, read at every block, and one intervention."""

from mi_lens.report.findings import findings
from mi_lens.report.page import write_report
from mi_lens.runs.analyze import analyze
from mi_lens.runs.config import AnalyzeConfig, DemoConfig, EvaluateConfig
from mi_lens.runs.evaluate import run_evaluate

MODELS = ("pocket-reasoner", "pocket-base")
OWN = {*MODELS, "intervention", "figures", "report.html"}  # What the demo writes.
INTERVENTION = "quiet=Suppress(['Wait', 'Hmm', 'Hold', 'Actually'])"


def run_demo(config: DemoConfig) -> str:
    """Analyzes both pocket models, tries one intervention, and writes `config.out`/report.html.

    Returns:
        The main findings as a text table, what the intervention changed, and the path of the
        report.

    Raises:
        FileExistsError: If the folder holds anything other than this demo.
    """
    foreign = [path.name for path in config.out.glob("*") if path.name not in OWN]
    begun = (config.out / MODELS[0] / "run.json").exists()
    if config.out.is_file() or foreign or (any(config.out.glob("*")) and not begun):
        raise FileExistsError(
            f"{config.out}: holds something else than a demo; give a new --out folder"
        )
    analyses = {
        model: analyze(
            AnalyzeConfig(
                model=model,
                limit=config.limit,
                seed=config.seed,
                out=config.out / model,
                hook_names=("blocks.*.hook_resid_post",),
                batch_size=50,
            )
        )
        for model in MODELS
    }
    tried = config.out / "intervention"
    evaluation = run_evaluate(
        EvaluateConfig(
            model=MODELS[0],
            limit=config.limit,
            seed=config.seed,
            out=tried,
            conditions=("baseline", INTERVENTION),
            batch_size=100,
        )
    )
    folders = [*(config.out / model for model in MODELS), tried]
    page = write_report(folders, config.out / "report.html", config.out / "figures")
    return f"{findings(analyses)}\n\n{evaluation.report()}\n\nReport: {page}"
