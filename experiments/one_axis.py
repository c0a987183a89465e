"""One trace on one axis: MI, lens, belief, entropy, effects, thoughts; what lenses say of answers.

python -m experiments.one_axis
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro

import mi_lens
from experiments.labels import Finding
from experiments.mi_study import fingerprint_of, saved_analysis
from experiments.study import Study, baseline_traces, save
from experiments.summaries import with_interval
from mi_lens.common.statistics import Estimate, estimate_mean
from mi_lens.information.lenses.answer_lens import AnswerLens, Values
from mi_lens.information.lenses.divergence import LensDivergence, summarized


@dataclass(frozen=True, kw_only=True)
class Config(Study):
    """What to run.

    Attributes:
        asking: Text that asks for the answer, as in `experiments.answer_belief`.
        trained_on: Number of problems on whose traces the tuned lens is trained.
        updates: Number of updates of the tuned lens.
        samples: Number of continuations with and without each thought.
    """

    limit: int = 24
    asking: str = ".\n</think>\n\nThe result is \\boxed{"
    trained_on: int = 40
    updates: int = 60
    samples: int = 8


def main(config: Config) -> None:
    """Draws the trace of middle length, and reads both lenses on all traces."""
    model = mi_lens.load(config.model)
    analysis = saved_analysis(config)
    traces = analysis.analysed
    trace = sorted(traces, key=len)[len(traces) // 2]
    lens = trained(config, model)
    readings = {
        "logit": mi_lens.answer_lens(model, traces),
        "tuned": mi_lens.answer_lens(model, traces, lens),
    }
    problems = [t.require_problem("that is read").key for t in traces]
    divergences = summarized([mi_lens.lens_divergences(model, lens, t) for t in traces], problems)
    beyond = {
        name: {hook: beyond_others(of_lens, hook) for hook in analysis.hook_names}
        for name, of_lens in readings.items()
    }
    for hook, found in divergences.items():
        print(f"{hook}: logit {with_interval(found.logit)}, tuned {with_interval(found.tuned)}")
    drawn = readings["tuned"][traces.index(trace)]
    thoughts = mi_lens.split_thoughts(model.tokenizer, trace)
    (belief,) = mi_lens.answer_belief(model, [trace], asking=config.asking)
    resampled = mi_lens.resample_thoughts(
        model,
        [trace],
        [thoughts],
        samples=config.samples,
        max_new_tokens=config.max_new_tokens,
        seed=config.seed,
        batch_size=config.batch_size,
    )
    figure = mi_lens.plot_trace(
        trace,
        measurement=analysis.measurement(trace, analysis.hook_names[-1]),
        lens=drawn,
        belief=belief,
        resampled=resampled,
        thoughts=thoughts,
        tokens=trace.token_strings(model.tokenizer),
        rule=analysis.peak_rule,
    )
    save(
        config,
        {config.model: fingerprint_of(analysis)},
        figure,
        finding(analysis.hook_names, divergences, beyond),
        {
            "trace": trace.id,
            "lens": rounded(drawn),
            "belief": belief,
            "settled": mi_lens.settled(belief),
            "importance": [
                {"start": r.thought.start, "stop": r.thought.stop, "importance": r.importance}
                for r in resampled
            ],
            "divergences": divergences,
            "gold less others": beyond,
        },
    )


def trained(config: Config, model: Any) -> mi_lens.TunedLens:
    """A tuned lens of the model, trained on traces of the training split."""
    problems = config.load_problems("train", config.trained_on)
    traces = baseline_traces(config, model, problems, "lens training")
    training = mi_lens.LensTraining(updates=config.updates, seed=config.seed)
    return mi_lens.train_lens(model, traces, training)


def beyond_others(readings: Sequence[AnswerLens], hook: str) -> Estimate:
    """Probability of the gold answer's first token less that of other answers', over traces.

    Of each trace it is the mean over its steps.
    """
    return estimate_mean(
        [
            float(np.mean(of_trace.gold.probability[hook] - of_trace.others.probability[hook]))
            for of_trace in readings
            if of_trace.gold is not None and of_trace.others is not None
        ]
    )


def rounded(reading: AnswerLens) -> dict[str, Any]:
    """What is drawn of the lens, with four digits."""

    def short(values: Values) -> dict[str, list[float]]:
        return {name: [float(f"{x:.4g}") for x in row] for name, row in values.items()}

    assert reading.gold is not None
    others = reading.others
    return {
        "answer": reading.gold.answer,
        "token": reading.gold.text,
        "probability": short(reading.gold.probability),
        "rank": short(reading.gold.rank),
        "others": None
        if others is None
        else {
            "answers": others.answers,
            "with the same first token": others.shared,
            "probability": short(others.probability),
        },
    }


def finding(
    hooks: Sequence[str],
    divergences: Mapping[str, LensDivergence],
    beyond: Mapping[str, Mapping[str, Estimate]],
) -> Finding:
    """How far both lenses are from the final distribution, and what they say of the gold answer."""
    middle = list(divergences)[len(divergences) // 2]
    found, last = divergences[middle], hooks[-1]
    return Finding(
        about="further reading: logit lens and tuned lens (arXiv 2303.08112) along a trace",
        claim="None: the figure shows one trace, and the lenses are compared over traces.",
        asked=False,
        text=f"At {middle} the logit lens is {with_interval(found.logit, digits=2)} bits from the "
        f"final distribution and the tuned lens {with_interval(found.tuned, digits=2)}. Over the "
        "steps of a trace the first token of the gold answer is likelier than that of other "
        f"problems' answers by {with_interval(beyond['tuned'][middle], 100)} points there by the "
        f"tuned lens, {with_interval(beyond['logit'][middle], 100)} by the logit lens, and "
        f"{with_interval(beyond['tuned'][last], 100)} at {last}.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
