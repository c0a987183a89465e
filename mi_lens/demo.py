"""The demo: analyzes both pocket models on the same problems and writes a report."""

from mi_lens.report.findings import findings
from mi_lens.report.page import write_report
from mi_lens.runs.analyze import analyze
from mi_lens.runs.config import AnalyzeConfig, DemoConfig

MODELS = ("pocket-reasoner", "pocket-base")


def run_demo(config: DemoConfig) -> str:
    """Analyzes both pocket models and writes `config.out`/report.html.

    Returns:
        The main findings as a text table, and the path of the report.
    """
    analyses = {
        model: analyze(
            AnalyzeConfig(
                model=model,
                limit=config.limit,
                seed=config.seed,
                out=config.out / model,
                batch_size=50,
            )
        )
        for model in MODELS
    }
    page = write_report(
        [config.out / model for model in MODELS], config.out / "report.html", config.out / "figures"
    )
    return f"{findings(analyses)}\n\nReport: {page}"
