"""The command line: one subcommand per configuration of `mi_lens.runs.config`."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EACCES, EPERM, EROFS
from types import FrameType

import tyro

from mi_lens.runs.config import (
    AnalyzeConfig,
    CheckConfig,
    EvaluateConfig,
    GenerateConfig,
    ImportConfig,
    ResultsConfig,
    StatusConfig,
    SweepConfig,
)
from mi_lens.runs.lens_config import TrainLensConfig
from mi_lens.runs.page_config import CompareConfig, DemoConfig, ReportConfig

COMMANDS = {
    "demo": DemoConfig,
    "generate": GenerateConfig,
    "import": ImportConfig,
    "analyze": AnalyzeConfig,
    "evaluate": EvaluateConfig,
    "sweep": SweepConfig,
    "train-lens": TrainLensConfig,
    "report": ReportConfig,
    "compare": CompareConfig,
    "status": StatusConfig,
    "check": CheckConfig,
    "results": ResultsConfig,
}


def main(args: list[str] | None = None) -> None:
    """Runs `mi-lens`. A mistake of the user prints its message and exits with status 2."""
    with _interrupts_noted() as interrupts:
        try:
            run(_parsed(args))
        except (Exception, KeyboardInterrupt) as error:
            # A library may turn Ctrl-C into an error of its own.
            if interrupts or isinstance(error, KeyboardInterrupt):
                print("mi-lens: stopped; the same command continues from here", file=sys.stderr)
                sys.exit(130)
            if not isinstance(error, ValueError | OSError | RuntimeError | ImportError):
                raise
            print(f"mi-lens: {error}", file=sys.stderr)
            sys.exit(2)


@contextmanager
def _interrupts_noted() -> Iterator[list[int]]:
    """Yields a list that gets each Ctrl-C of the block; each raises KeyboardInterrupt as always."""
    interrupts: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        interrupts.append(number)
        signal.default_int_handler(number, frame)

    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not usual or threading.current_thread() is not threading.main_thread():
        yield interrupts  # somebody else handles it, or nobody may
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _parsed(args: list[str] | None) -> "Config":
    return tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        prog="mi-lens",
        description="Where in its reasoning does a language model come to know the answer?",
        args=args,
    )


Config = (
    DemoConfig
    | GenerateConfig
    | ImportConfig
    | SweepConfig
    | TrainLensConfig
    | StatusConfig
    | CheckConfig
    | ResultsConfig
    | ReportConfig
    | CompareConfig
)


def run(config: Config) -> None:
    """Runs the command of a configuration and prints its result.

    torch and transformer_lens are loaded here, not for `--help`.
    """
    if isinstance(config, DemoConfig):
        from mi_lens.demo import run_demo

        print(run_demo(config))
    elif isinstance(config, StatusConfig):
        from mi_lens.runs.status import status

        print(status(config.out))
    elif isinstance(config, CheckConfig):
        from mi_lens.runs.check import check

        checked = check(config.out)
        print(checked)
        if checked.damages:
            sys.exit(1)
    elif isinstance(config, ImportConfig):
        from mi_lens.evaluation.result import CAPPED
        from mi_lens.runs.import_text import run_import

        traces = run_import(config)
        labelled = sum(trace.is_correct is not None for trace in traces)
        cut_off = sum(trace.stop_reason in CAPPED for trace in traces)
        print(
            f"{len(traces)} traces in {config.out / 'traces.jsonl'}: {labelled} with the author's "
            f"label, {cut_off} cut off"
        )
    elif isinstance(config, SweepConfig | ResultsConfig):
        _run_sweep_command(config)
    elif isinstance(config, AnalyzeConfig):
        from mi_lens.report.findings import findings
        from mi_lens.report.page import write_report
        from mi_lens.runs.analyze import analyze

        analysis = analyze(config)
        page = write_report([config.out], config.out / "report.html", config.out / "figures")
        print(f"{findings({config.model: analysis})}\n\nReport: {page}")
    elif isinstance(config, ReportConfig):
        from mi_lens.report.page import write_report

        print(f"Report: {write_report(config.runs, config.out, traces=config.traces)}")
    elif isinstance(config, CompareConfig):
        from mi_lens.report.comparison_page import write_comparison

        page = write_comparison(config.first, config.second, config.out, unit=config.unit)
        print(f"Comparison: {page}")
    elif isinstance(config, TrainLensConfig):
        from mi_lens.runs.train_lens import LENS, run_train_lens

        print(f"{run_train_lens(config)}\n\nLens: {config.out / LENS}")
    elif isinstance(config, EvaluateConfig):
        from mi_lens.runs.evaluate import run_evaluate

        evaluation = run_evaluate(config)
        print(f"{evaluation.report()}\n\nResults: {config.out / 'results.jsonl'}")
    else:
        from mi_lens.runs.generate import run_generate

        traces = run_generate(config)
        print(f"{len(traces)} traces in {config.out / 'traces.jsonl'}")


def _run_sweep_command(config: SweepConfig | ResultsConfig) -> None:
    from mi_lens.runs import sweep
    from mi_lens.runs.sweep_folder import read_spec

    against = None
    if isinstance(config, ResultsConfig):
        evaluations, against = sweep.results(config.out), config.against
    elif config.executor == "local":
        evaluations = sweep.run_sweep(sweep.Spec.read(config.spec), config.out)
    else:
        from mi_lens.runs.sweep_on_ray import run_sweep_on_ray

        spec = sweep.Spec.read(config.spec)
        evaluations = run_sweep_on_ray(
            spec, config.out, workers=config.workers, address=config.address
        )
    if not evaluations:
        print("no problem is finished yet")
        return
    for model, evaluation in evaluations.items():
        print(f"{model}\n{evaluation.report(against)}\n")
    table = config.out / "results.parquet"
    points = read_spec(config.out).points()
    try:
        sweep.write_results(evaluations, points, table)
        print(f"Results: {table}")
    except OSError as error:
        if isinstance(config, SweepConfig) or error.errno not in (EROFS, EACCES, EPERM):
            raise
        print(f"Results: not written, since the folder is read-only ({error.strerror})")
    if isinstance(config, ResultsConfig) and config.plot is not None:
        from mi_lens.report.figures import save_sweep_curves

        for path in save_sweep_curves(evaluations, points, config.plot, against):
            print(f"Curves: {path}")


if __name__ == "__main__":
    main()
