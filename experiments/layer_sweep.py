"""Steering and recycling at one block after another: what each does to the text and its answer.

python -m experiments.layer_sweep

Where a model gets few answers right, accuracy says little. So the text that an intervention leads
to is read by the unchanged model: its perplexity says how far the text is from what the model
writes by itself.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.figure import Figure

import mi_lens
from experiments.labels import ClaimTest, Finding
from experiments.mi_study import texts_of
from experiments.recycling import PAPER_DEPTH
from experiments.steering import PUBLISHED
from experiments.study import Study, baseline_traces, block_outputs, requested_traces, save
from experiments.summaries import affine, is_right, with_interval
from mi_lens.common.intervals import estimate_difference
from mi_lens.common.statistics import Estimate, estimate_mean
from mi_lens.evaluation.comparison import GAIN
from mi_lens.report.plots.style import BLUE, GREY, ORANGE, PAGE, curve, legend_above, style
from mi_lens.traces.text_pieces import text_pieces

KINDS = {"steering": BLUE, "random direction": GREY, "recycling": ORANGE}


@dataclass(frozen=True, kw_only=True)
class Config(Study):
    """What to run.

    Attributes:
        texts: A file of responses whose thoughts the vectors are made from, as
            `ReadingStudy.texts`; None makes them from the model's own traces of the train split.
        text_limit: Number of these responses, or of these problems.
        steps: Number of tokens that are read of each response.
        every: Distance between the blocks that are tried; the last block is always tried.
        words: Number of words to recycle at, those that open most sentences of the model.
    """

    limit: int = 20
    texts: Path | None = None
    text_limit: int = 40
    steps: int = 700
    every: int = 1
    words: int = 5

    def scope(self) -> str:
        """The problems, and what the vectors are made from."""
        source = f"traces of {self.text_limit} other problems"
        if self.texts is not None:
            source = (
                f"the first {self.steps} tokens of {self.text_limit} texts of {self.texts.stem}, "
                "which the model reads"
            )
        return f"{super().scope()}, vectors from {source}"


@dataclass(frozen=True)
class Tried:
    """What an intervention at a block does, against no intervention; over problems.

    Attributes:
        right: Number of right answers.
        accuracy: Share of right answers less that without.
        bits: Bits per token of its text under the unchanged model, less those without.
        changed: Share of the traces whose text is another.
        length: Tokens of a trace.
    """

    right: int
    accuracy: Estimate
    bits: Estimate
    changed: float
    length: Estimate


def main(config: Config) -> None:
    """Tries every chosen block by itself, with each kind of intervention."""
    model = mi_lens.load(config.model)
    problems = config.load_problems()
    baseline = baseline_traces(config, model, problems)
    words = openers(baseline, model.tokenizer, config.words)
    hooks = block_outputs(model)
    layers = sorted({*range(0, len(hooks), config.every), len(hooks) - 1})
    vectors = mi_lens.extract_steering_vectors(
        model, _read(config, model), [hooks[layer] for layer in layers]
    )
    conditions = {
        (kind, layer): mi_lens.Condition((intervention,), name=f"{kind} at block {layer}")
        for layer in layers
        for kind, intervention in (
            ("steering", mi_lens.Steer(vectors[hooks[layer]])),
            (
                "random direction",
                mi_lens.Steer(vectors[hooks[layer]], variant="random", seed=config.seed),
            ),
            ("recycling", mi_lens.Recycle(layer, words)),
        )
    }
    requests = [
        mi_lens.Request(problem, condition, max_new_tokens=config.max_new_tokens)
        for condition in conditions.values()
        for problem in problems
    ]
    written = requested_traces(config, model, requests)
    n = len(problems)
    without = bits(model, baseline)
    tried = {
        key: compare(written[i * n : (i + 1) * n], baseline, model, without)
        for i, key in enumerate(conditions)
    }
    right = int(is_right(baseline).sum())
    for (kind, layer), row in tried.items():
        print(
            f"{kind:<18}{layer:>3}: {row.right} of {n} right, {100 * row.changed:.0f} % of texts "
            f"changed, {with_interval(row.bits, digits=2)} bits more"
        )
    save(
        config,
        {config.model: mi_lens.model_fingerprint(model)},
        draw(tried, right, n),
        finding(tried, right, n, float(without.mean()), words, len(hooks)),
        {
            "words": words,
            "right without": right,
            "bits per token without": without,
            "vectors": {
                name: {"norm": float(vector.vector.norm()), "thoughts": vector.counts}
                for name, vector in vectors.items()
            },
            "tried": {f"{kind} at block {layer}": row for (kind, layer), row in tried.items()},
        },
    )


def _read(config: Config, model) -> list[mi_lens.Trace]:
    """The traces whose thoughts the vectors are made from."""
    if config.texts is not None:
        return texts_of(config.texts, config.text_limit, config.steps, model.tokenizer)
    problems = config.load_problems("train", config.text_limit)
    return baseline_traces(config, model, problems, "vectors")


def openers(traces: Sequence[mi_lens.Trace], tokenizer, most: int) -> tuple[str, ...]:
    """The words that open most sentences of traces, of those that one token writes.

    A sentence begins with the text, and after a full stop, an exclamation or question mark, or the
    end of a line.
    """
    counts: Counter[str] = Counter()
    for trace in traces:
        for line in trace.text.splitlines():
            pieces = text_pieces(line)
            starts = [0, *(i + 1 for i, piece in enumerate(pieces) if piece in {".", "!", "?"})]
            counts.update(pieces[i] for i in starts if i < len(pieces) and pieces[i].isalpha())
    words = []
    for word, _ in counts.most_common():
        try:
            mi_lens.TokenSet.of(tokenizer, [word])
        except ValueError:  # several tokens write it
            continue
        words.append(word)
    return tuple(words[:most])


def bits(model, traces: Sequence[mi_lens.Trace]) -> np.ndarray:
    """Mean surprisal per token of each trace's text under the unchanged model, in bits."""
    last = block_outputs(model)[-1]
    read = mi_lens.capture(model, traces, [last], condition=None)
    return np.array(
        [
            mi_lens.next_token_uncertainty(model, trace, states[last], condition=None)[
                "surprisal"
            ].mean()
            for trace, states in zip(traces, read, strict=True)
        ]
    )


def compare(
    traces: Sequence[mi_lens.Trace],
    baseline: Sequence[mi_lens.Trace],
    model,
    without: np.ndarray,
) -> Tried:
    """What an intervention changed, problem by problem; an unchanged text is not read again."""
    changed = [
        trace.token_ids != before.token_ids for trace, before in zip(traces, baseline, strict=True)
    ]
    more = np.zeros(len(traces))
    if any(changed):
        read = bits(model, [trace for trace, new in zip(traces, changed, strict=True) if new])
        more[changed] = read - without[changed]
    right, before = is_right(traces), is_right(baseline)
    return Tried(
        int(right.sum()),
        estimate_difference((right - before).tolist()),
        estimate_mean(more),
        float(np.mean(changed)),
        estimate_mean([float(len(trace)) for trace in traces]),
    )


def draw(tried: Mapping[tuple[str, int], Tried], right: int, problems: int) -> Figure:
    """Bits, changed texts and right answers by block, one line per kind."""
    with style():
        figure, (left, middle, last) = plt.subplots(1, 3, figsize=(PAGE, 2.3))
        for kind, colour in KINDS.items():
            rows = {layer: row for (of_kind, layer), row in tried.items() if of_kind == kind}
            layers = list(rows)
            curve(left, layers, [row.bits for row in rows.values()], colour, kind, marker="o")
            shares = [100 * row.changed for row in rows.values()]
            middle.plot(layers, shares, "o-", color=colour, markersize=3)
            last.plot(layers, [r.right for r in rows.values()], "o-", color=colour, markersize=3)
        left.axhline(0, color="black", linewidth=0.5)
        left.set_ylabel("bits per token more,\nby the unchanged model")
        middle.set_ylabel("% of texts changed")
        middle.set_ylim(0, 102)
        last.axhline(right, color="black", linewidth=0.8, linestyle="--")
        last.set_ylabel(f"right answers of {problems}\n(dashed: without)")
        last.set_ylim(0, problems)
        for axes in (left, middle, last):
            axes.set_xlabel("block")
        legend_above(figure, left)
    return figure


def finding(
    tried: Mapping[tuple[str, int], Tried],
    right: int,
    problems: int,
    without: float,
    words: Sequence[str],
    blocks: int,
) -> Finding:
    """Whether the papers' interventions at their depths raise accuracy, and what they cost."""
    layers = sorted({layer for _, layer in tried})
    # SEAL steers the input of a block, which is the output of the block before.
    depths = {"steering": PUBLISHED * blocks - 1, "recycling": PAPER_DEPTH * (blocks - 1)}
    papers = {
        kind: min(layers, key=lambda layer: abs(layer - depth)) for kind, depth in depths.items()
    }
    told = []
    for kind in KINDS:
        rows = {layer: row for (of_kind, layer), row in tried.items() if of_kind == kind}
        worst = max(rows, key=lambda layer: rows[layer].bits.mean or 0.0)
        counts = sorted(row.right for row in rows.values())
        told.append(
            f"{kind} adds at most {with_interval(rows[worst].bits, digits=2)} (block {worst}) and "
            f"leaves {counts[0]} to {counts[-1]} answers right"
        )
    opening = ", ".join(f"“{word}”" for word in words)
    return Finding(
        about="paper 1, RR, and paper 2, SEAL: the layer",
        claim="Steering by SEAL's vector and recycling raise accuracy at the papers' depths.",
        tests=tuple(
            ClaimTest(
                f"accuracy with {kind} at block {layer} less that without",
                affine(tried[kind, layer].accuracy, 100),
                100 * GAIN,
                "points",
            )
            for kind, layer in papers.items()
        ),
        text=f"Of {problems} answers {right} are right without intervention, and the model's own "
        f"text has {without:.2f} bits per token; by block, {told[0]}; {told[1]}; {told[2]}. "
        f"At the papers' depths steering (block {papers['steering']}) changes "
        f"{100 * tried['steering', papers['steering']].changed:.0f} % of the texts, and recycling "
        f"(block {papers['recycling']}) at the words that open most sentences, {opening}, "
        f"{100 * tried['recycling', papers['recycling']].changed:.0f} %.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
