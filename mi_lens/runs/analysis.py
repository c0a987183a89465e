"""The results of a run of `mi-lens analyze`, read back without its model."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from mi_lens.common.html import table
from mi_lens.common.records import read_record, read_records, require_all
from mi_lens.information.per_trace.answer_endings import EndingSummary, compare_endings
from mi_lens.information.per_trace.belief import Belief
from mi_lens.information.per_trace.control_summary import ControlSummary, summarize
from mi_lens.information.per_trace.measurement import Measurement
from mi_lens.information.per_trace.peak_rules import PeakRule
from mi_lens.information.per_trace.peaks import (
    PeakStatistics,
    find_peaks,
    peak_statistics,
)
from mi_lens.information.per_trace.thinking_tokens import ThinkingTokens, TokenRow
from mi_lens.models.hook_names import near
from mi_lens.problems.grading.grader import Grade, grade
from mi_lens.runs.ask import belief_from_row
from mi_lens.runs.config import AnalyzeConfig
from mi_lens.runs.folder import config_of, traces_so_far
from mi_lens.runs.measure import Measurements, activations_path, measurements_from_row
from mi_lens.states.shard import load_activations
from mi_lens.traces.trace import Trace
from mi_lens.traces.vocabulary import SCALING_WORDS, word_of

LAST_WRITTEN = "thinking_tokens.json"  # A run is finished once its folder has this file.


@dataclass(frozen=True)
class Analysis:
    """The results of a run.

    Attributes:
        config: The configuration of the run.
        traces: One trace per problem, in order.
        token_strings: For every trace, its generated tokens as text.
        hook_names: The hook names at which states were read.
        measurements: Trace id to the trace's measurements; a trace too short for peaks has none.
        tokens: Hook name to the table of words at its peaks.
        beliefs: Trace id to the trace's belief, if the run asked for answers; None for a trace that
            cannot be asked (belief.jsonl says why).
    """

    config: AnalyzeConfig
    traces: tuple[Trace, ...]
    token_strings: tuple[list[str], ...]
    hook_names: tuple[str, ...]
    measurements: dict[str, Measurements]
    tokens: dict[str, ThinkingTokens]
    beliefs: dict[str, Belief | None] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: str | Path) -> "Analysis":
        """Reads back what `analyze` wrote, with the tokenizer only: the model is not loaded.

        An unfinished run gives the traces in the order in which they finished, the measurements so
        far, and no words (`finished` is False).

        Args:
            folder: The run's folder; nothing in it is changed.

        Raises:
            FileNotFoundError: If the folder holds no run, or its tokenizer no longer exists.
            ValueError: If the run belongs to another command, or to another version of mi_lens.
        """
        folder = Path(folder)
        record = read_record(folder)
        if record.get("command") != "analyze":
            raise ValueError(
                f"{folder}: a run of mi-lens {record.get('command')}; expected one of mi-lens "
                "analyze"
            )
        config = config_of(record, AnalyzeConfig, folder)
        by_id = {trace.id: trace for trace in traces_so_far(folder / "traces.jsonl")}
        measurements = {
            row["trace"]: measurements_from_row(row["readings"])
            for row in read_records(folder / "readings.jsonl")
        }
        beliefs = {
            row["trace"]: belief_from_row(row["belief"])
            for row in read_records(folder / "belief.jsonl")
        }
        finished = (folder / LAST_WRITTEN).exists()
        order = list(by_id)
        if finished:
            peaks = read_record(folder, "peaks.json")
            order = peaks["traces"]  # in the order of the problems
            require_all(folder / "traces.jsonl", by_id, order)
            long_enough = [i for i in order if i not in peaks["too_short"]]
            require_all(folder / "readings.jsonl", measurements, long_enough)
            if config.belief is not None:
                require_all(folder / "belief.jsonl", beliefs, order)
        traces = tuple(by_id[i] for i in order)
        tokenizer = config.load_tokenizer(config.model)
        tables = read_record(folder, LAST_WRITTEN) if finished else {}
        return cls(
            config=config,
            traces=traces,
            token_strings=tuple(trace.token_strings(tokenizer) for trace in traces),
            hook_names=tuple(next(iter(measurements.values()), {})),
            measurements=measurements,
            tokens={name: _table_from_row(row) for name, row in tables.items()},
            beliefs=beliefs,
        )

    def __repr__(self) -> str:
        hooks = ", ".join(self.hook_names[:2]) + (", ..." if len(self.hook_names) > 2 else "")
        state = "finished" if self.finished else "unfinished"
        return (
            f"Analysis({str(self.config.model)[-40:]} on {self.config.problems[-40:]}: "
            f"{len(self.traces):,} traces, {len(self.measurements):,} measured at "
            f"{len(self.hook_names)} hook names ({hooks}); {state})"
        )

    @property
    def peak_rule(self) -> PeakRule:
        """The rule that selects peaks."""
        return self.config.peak_rule()

    @property
    def finished(self) -> bool:
        """Whether every trace was measured and the words at peaks were counted."""
        return bool(self.tokens)

    @cached_property
    def grades(self) -> tuple[Grade | None, ...]:
        """The grade of each trace; None for a trace without a problem."""
        return tuple(grade(t.text, t.problem) if t.problem else None for t in self.traces)

    @cached_property
    def analysed(self) -> tuple[Trace, ...]:
        """The traces that have measurements."""
        return tuple(trace for trace in self.traces if trace.id in self.measurements)

    def measurement(self, trace: Trace, hook_name: str) -> Measurement:
        """The measurement of a trace at a hook name.

        Raises:
            ValueError: If the trace was not measured, or not at this hook name.
        """
        if trace.id not in self.measurements:
            raise ValueError(
                f"trace {trace.id} has no measurements: it is too short for peaks, belongs to "
                f"another run, or the run is unfinished; expected one of the "
                f"{len(self.analysed)} traces in `analysed`"
            )
        measurements = self.measurements[trace.id]
        if hook_name not in measurements:
            raise ValueError(
                f"hook {hook_name!r} was not measured; expected one of {list(measurements)}"
                f"{near(hook_name, measurements)}"
            )
        return measurements[hook_name]

    def states(self, trace: Trace, hook_name: str) -> Float[Tensor, "step d"]:
        """The states of a trace at a hook name, from the run's folder.

        Raises:
            ValueError: If the run kept no states, or the trace was not measured at this hook name.
            FileNotFoundError: If the file of the states was removed.
            DamagedError: If it was altered.
        """
        self.measurement(trace, hook_name)
        if not self.config.keep_states:
            raise ValueError(
                f"{self.config.out}: its states were measured and not kept (keep_states=False); "
                "analyse to another folder with keep_states=True, or read them again with "
                "mi_lens.capture"
            )
        path = activations_path(self.config.out, trace)
        return load_activations(path, [hook_name])[hook_name]

    def mi(self, trace: Trace, hook_name: str) -> list[float]:
        """The trajectory of a trace at a hook name."""
        return self.measurement(trace, hook_name).mi.tolist()

    def peaks(self, trace: Trace, hook_name: str) -> list[int]:
        """The raw peaks of a trace at a hook name."""
        return find_peaks(self.measurement(trace, hook_name).mi, self.peak_rule).tolist()

    def specific_peaks(self, trace: Trace, hook_name: str) -> list[int] | None:
        """The significant peaks of the specific part.

        None if there are too few other answers to tell (`Calibration.decides`).
        """
        calibration = self.measurement(trace, hook_name).calibration
        if calibration is None or not calibration.decides():
            return None
        return calibration.peaks(self.peak_rule).tolist()

    def controls(self, hook_name: str) -> ControlSummary:
        """The summary of the controls at a hook name, over traces."""
        measurements = [self.measurement(trace, hook_name) for trace in self.analysed]
        return summarize(measurements, rule=self.peak_rule)

    def endings(
        self, hook_name: str, words: Sequence[str] = SCALING_WORDS
    ) -> dict[str, EndingSummary]:
        """The same answers under other endings of their texts, at a hook name.

        Args:
            hook_name: Where the states were read.
            words: The thinking words, looked for among the emitted tokens. The default is paper 1's
                list for test-time scaling.
        """
        places = {trace.id: place for place, trace in enumerate(self.traces)}
        thinking = {word_of(word) for word in words}
        return compare_endings(
            [self.measurement(trace, hook_name) for trace in self.analysed],
            [
                np.array([word_of(text) in thinking for text in self.token_strings[places[t.id]]])
                for t in self.analysed
            ],
            self.peak_rule,
        )

    def statistics(self, trace: Trace, hook_name: str) -> PeakStatistics:
        """The numbers of a trace's peaks at a hook name."""
        return peak_statistics(self.mi(trace, hook_name), self.peaks(trace, hook_name))

    def summary(self, hook_name: str) -> dict[str, Any]:
        """Means over traces, as in paper 1's tables 1 and 2; None where no trace has a value."""
        statistics = [self.statistics(trace, hook_name) for trace in self.analysed]

        def mean(field: str) -> float | None:
            values = [v for row in statistics if (v := getattr(row, field)) is not None]
            return float(np.mean(values)) if values else None

        correct = [verdict.correct for verdict in self.grades if verdict is not None]
        return {
            "hook_name": hook_name,
            "traces": len(self.traces),
            "analysed": len(self.analysed),
            "accuracy": float(np.mean(correct)),
            "finished": float(np.mean([trace.stop_reason == "eos" for trace in self.traces])),
            "tokens": float(np.mean([len(trace) for trace in self.traces])),
            "peaks": mean("count"),
            "ratio": mean("ratio"),
            "interval": mean("interval_mean"),
            "mi": mean("mean"),
            "aom": mean("aom"),
        }

    def _repr_html_(self) -> str:
        summaries = [self.summary(name) for name in self.hook_names]
        header = [key.replace("_", " ") for key in summaries[0]]
        title = f"{self.config.model} on {self.config.problems}"
        return table([tuple(summary.values()) for summary in summaries], header, title)


def _table_from_row(row: dict[str, Any]) -> ThinkingTokens:
    rows = tuple(
        TokenRow(**{**word, "token_ids": tuple(word["token_ids"])}) for word in row["rows"]
    )
    return ThinkingTokens(**{**row, "rows": rows})
