"""The demo: models on the same problems, read at every block, and one intervention."""

from pathlib import Path
from typing import Any

from mi_lens.report.findings import findings
from mi_lens.report.page import write_report
from mi_lens.runs.analyze import analyze
from mi_lens.runs.config import AnalyzeConfig, EvaluateConfig
from mi_lens.runs.evaluate import run_evaluate
from mi_lens.runs.page_config import DemoConfig

POCKET = ("pocket-reasoner", "pocket-base")
OTHERS = {"intervention", "figures", "report.html"}  # What the demo writes beside the analyses.
QUIET = "quiet=Suppress(['Wait', 'Hmm', 'Hold', 'Actually'])"
# Words that open the steps of an instruct model: of paper 1's list, those that it writes.
PLAIN = "plain=Suppress(['So', 'Therefore', 'Now', 'First'])"


def run_demo(config: DemoConfig) -> str:
    """Analyzes the models, tries one intervention on the first, and writes a report.

    Returns:
        The main findings as a text table, what the intervention changed, and the path of the
        report, `config.out`/report.html.

    Raises:
        FileExistsError: If the folder holds anything other than this demo.
    """
    models, intervention = ((config.model,), PLAIN) if config.model != "pocket" else (POCKET, QUIET)
    folders = {model: config.out / Path(model).name for model in models}
    _require_own(config, [folder.name for folder in folders.values()])
    settings: dict[str, Any] = {"limit": config.limit, "seed": config.seed}
    if config.model != "pocket":
        settings |= {"problems": "grade-school", "max_new_tokens": 256}
    analyses = {
        model: analyze(
            AnalyzeConfig(
                model=model,
                out=folder,
                hook_names=("blocks.*.hook_resid_post",),
                batch_size=50,
                **settings,
            )
        )
        for model, folder in folders.items()
    }
    tried = config.out / "intervention"
    evaluation = run_evaluate(
        EvaluateConfig(
            model=models[0],
            out=tried,
            conditions=("baseline", intervention),
            batch_size=100,
            **settings,
        )
    )
    page = write_report(
        [*folders.values(), tried], config.out / "report.html", config.out / "figures"
    )
    return f"{findings(analyses)}\n\n{evaluation.report()}\n\nReport: {page}"


def _require_own(config: DemoConfig, models: list[str]) -> None:
    foreign = {path.name for path in config.out.glob("*")}.difference(models, OTHERS)
    begun = (config.out / models[0] / "run.json").exists()
    if config.out.is_file() or foreign or (any(config.out.glob("*")) and not begun):
        raise FileExistsError(
            f"{config.out}: holds something else than a demo of {config.model}; give a new --out "
            "folder"
        )
