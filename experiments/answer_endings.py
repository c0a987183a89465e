"""Whether peaks are the answer's, or those of the last characters of its text.

python -m experiments.answer_endings

With `--texts`, the model reads texts that others wrote, and no solutions: the answer is stated as
"The answer is N", with every ending.

python -m experiments.answer_endings --model CHECKPOINT --texts TRACES.jsonl --limit 10
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from tqdm import tqdm

import mi_lens
from experiments.labels import Finding, half_shared
from experiments.study import THINKING_WORDS, Study, block_outputs, save, saved_analysis
from experiments.summaries import with_interval
from mi_lens.information.per_trace.answer_endings import EndingSummary, compare_endings
from mi_lens.information.per_trace.covariates import covariates
from mi_lens.information.per_trace.hsic import hsic_mi
from mi_lens.information.per_trace.measurement import Measurement
from mi_lens.information.per_trace.remaining import Remaining, remaining
from mi_lens.problems.endings import STATED, endings_of
from mi_lens.report.plots.style import BLUE, COLOURS, GREY, ORANGE, PAGE, dots, style
from mi_lens.states.uncertainty import next_token_explanations
from mi_lens.traces.vocabulary import SCALING_WORDS, word_of

SIGMA = 50.0


@dataclass(frozen=True, kw_only=True)
class Config(Study):
    """What to run.

    Attributes:
        words: Thinking words: paper 1's list for test-time scaling, and similar words.
        texts: A file of responses to read, of `question`, `response` and `gold`; None lets the
            model write.
        steps: Number of tokens that are read of each of these responses.
    """

    limit: int = 100
    words: tuple[str, ...] = (*SCALING_WORDS, *THINKING_WORDS)
    texts: Path | None = None
    steps: int = 900

    def scope(self) -> str:
        """See `Study.scope`."""
        if self.texts is None:
            return super().scope()
        return f"{self.limit} texts of {self.texts.stem}, which the model reads and did not write"


@dataclass(frozen=True)
class Found:
    """What is found at one block.

    Attributes:
        endings: The peaks under each ending, compared with those of the text as it is.
        remaining: What remains of MI when each covariate is held, under the ending as it is.
    """

    endings: dict[str, EndingSummary]
    remaining: dict[str, Remaining]


def main(config: Config) -> None:
    """Compares the peaks under every ending, at every block."""
    if config.texts is None:
        analysis = saved_analysis(config)
        fingerprint = analysis.traces[0].model
        found = {
            name: Found(analysis.endings(name, config.words), analysis.controls(name).remaining)
            for name in analysis.hook_names
        }
    else:
        model = mi_lens.load(config.model)
        fingerprint = mi_lens.model_fingerprint(model)
        found = read_texts(model, config)
    print(table(found))
    save(
        config,
        {Path(config.model).name: fingerprint},
        draw(found),
        finding(found),
        {"blocks": found},
    )


def read_texts(model, config: Config) -> dict[str, Found]:
    """The comparison for texts that the model reads: each at its first steps."""
    hooks = block_outputs(model)
    thinking_words = {word_of(word) for word in config.words}
    measurements: dict[str, list[Measurement]] = {name: [] for name in hooks}
    thinking = []
    for trace in tqdm(texts_of(config, model.tokenizer), unit="text"):
        (states,) = mi_lens.capture(model, [trace], hooks)
        problem = trace.require_problem("whose answer is stated")
        answers = {
            ending: mi_lens.answer_state(model, problem, hooks, ending=ending)
            for ending in endings_of(problem, "solution_last")
        }
        own = answers["as_written"]
        last = hooks[-1]
        next_token = next_token_explanations(model, trace, states[last], own[last])
        for name in hooks:
            stacked = torch.stack([answer[name] for answer in answers.values()])
            values = hsic_mi(states[name], stacked, sigma=SIGMA).cpu().numpy().T
            by_ending = dict(zip(answers, values, strict=True))
            explained = covariates(states[name], own[name], next_token)
            measurements[name].append(
                Measurement(by_ending["as_written"], None, explained, {}, 0, by_ending)
            )
        strings = trace.token_strings(model.tokenizer)
        thinking.append(np.array([word_of(string) in thinking_words for string in strings]))
    return {
        name: Found(
            compare_endings(rows, thinking),
            remaining([row.mi for row in rows], [row.covariates for row in rows]),
        )
        for name, rows in measurements.items()
    }


def texts_of(config: Config, tokenizer) -> list[mi_lens.Trace]:
    """The texts as traces of their first steps; the answer is stated in one sentence."""
    if config.texts is None:
        return []
    lines = config.texts.read_text(encoding="utf-8").splitlines()[: config.limit]
    traces = []
    for row in map(json.loads, lines):
        problem = mi_lens.Problem(
            row["id"], row["question"], row["gold"], solution=f"{STATED}{row['gold']}."
        )
        trace = mi_lens.Trace.from_text(tokenizer, problem, row["response"], style="raw")
        traces.append(replace(trace, token_ids=trace.token_ids[: config.steps]))
    return traces


def table(found: Mapping[str, Found]) -> str:
    """The endings at every block, as a text table."""
    lines = []
    for name, at_block in found.items():
        lines.append(
            f"{name:<28}{'% peaks':>9}{'shared':>22}{'% at thinking words':>24}{'lift':>20}"
        )
        for ending, row in at_block.endings.items():
            lines.append(
                f"  {ending:<26}{100 * (row.ratio.mean or 0):>9.1f}"
                f"{with_interval(row.overlap, digits=2):>22}"
                f"{with_interval(row.thinking, 100):>24}{with_interval(row.lift):>20}"
            )
    return "\n".join(lines)


def draw(found: Mapping[str, Found]) -> Figure:
    """Peaks shared, thinking words at peaks, and what remains, at the last block and by block."""
    last = list(found.values())[-1]
    names = list(last.endings)
    with style():
        figure, (left, middle, right) = plt.subplots(
            1, 3, figsize=(PAGE, 2.9), width_ratios=(1, 1, 1.1), layout="constrained"
        )
        dots(left, [last.endings[name].overlap for name in names], BLUE)
        left.set_xlabel("peaks shared with the text\nas written (Jaccard, 95 %)")
        left.set_xlim(-0.04, 1.04)
        dots(middle, [last.endings[name].thinking for name in names], ORANGE, scale=100)
        steps = last.endings[names[0]]
        if steps.thinking.mean and steps.lift.mean:
            everywhere = 100 * steps.thinking.mean / steps.lift.mean
            middle.axvline(everywhere, color=GREY, linewidth=0.8, linestyle="--")
        middle.set_xlabel("% of peaks at thinking words\n(dashed: % of all steps; 95 %)")
        middle.set_xlim(left=0)
        for axes in (left, middle):
            axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
            axes.set_ylim(len(names) - 0.5, -0.5)
        middle.tick_params(labelleft=False)
        _draw_remaining(right, found)
    return figure


def _draw_remaining(axes, found: Mapping[str, Found]) -> None:
    held = list(next(iter(found.values())).remaining)
    for colour, name in zip(COLOURS, held, strict=False):
        values = [at_block.remaining[name].variance.mean for at_block in found.values()]
        axes.plot(
            range(len(values)),
            [100 * (v or 0) for v in values],
            "o-",
            color=colour,
            markersize=3,
            label=name,
            linewidth=1,
        )
    axes.set_xlabel("block")
    axes.set_ylabel("% of MI's variance left when held")
    axes.set_ylim(0, 102)
    axes.set_xticks(range(0, len(found), max(1, len(found) // 6)))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, fontsize="x-small")


def finding(found: Mapping[str, Found]) -> Finding:
    """Whether peaks stay when the same answer ends otherwise, and stand at thinking words."""
    hook_name, last = list(found.items())[-1]
    rows = last.endings
    full_stop = rows["period"]
    others = {name: row for name, row in rows.items() if name not in ("as_written", "period")}
    wording = others.pop("paraphrase")
    least = min(others.values(), key=lambda row: row.overlap.mean or 0.0)
    squared = [at.remaining["squared correlation"].variance.mean or 0.0 for at in found.values()]
    alike = last.remaining["next token as after the answer"]

    def lift_of(names: Sequence[str]) -> str:
        return ", ".join(
            f"{name.replace('_', ' ')} {with_interval(rows[name].thinking, 100)}" for name in names
        )

    return Finding(
        about="paper 1, peaks and tokens at peaks; criticism: the answer's last character",
        claim="MI peaks are steps that know the gold answer, and thinking tokens stand there.",
        tests=half_shared(
            {
                f"peaks shared with the ending {name!r}, less one half": others[ending].overlap
                for ending, name in ((ending, ending.replace("_", " ")) for ending in others)
            }
        ),
        text=f"At {hook_name}, of the peaks under the text as written or under another ending of "
        f"the same answer, {with_interval(least.overlap, 100)} % are of both where the two differ "
        f"most, and {with_interval(wording.overlap, 100)} % where another sentence ends with the "
        f"same full stop; at thinking words stand {lift_of(list(rows))} % of the peaks, and with a "
        f"full stop that is {with_interval(full_stop.lift)} times their share of all steps. "
        f"With the squared correlation of the coordinates held, {100 * min(squared):.1f} to "
        f"{100 * max(squared):.1f} % of MI's variance is left, by block; with the likeness of the "
        f"next-token distribution to that after the answer, {with_interval(alike.variance, 100)} % "
        f"({with_interval(alike.chance, 100)} % by chance) and {with_interval(alike.peaks, 100)} % "
        "of the peaks.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
