"""SEAL's difference of means, compared with reading vectors: first principal components of pairs.

python -m experiments.reading_vectors
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tyro

import mi_lens
from experiments.labels import ClaimTest, Finding
from experiments.study import Study, block_outputs, sampled_traces, save
from experiments.summaries import affine, side, with_interval
from mi_lens.report.plots.thoughts import reading_figure
from mi_lens.steering.reading_vectors import MEANS, ReadingVectors, reading_vectors

MARGIN = 0.02  # Gain in AUC that a better direction must be able to reach.


@dataclass(frozen=True, kw_only=True)
class Config(Study):
    """What to run; the study samples one trace per problem."""

    limit: int = 80


def main(config: Config) -> None:
    """Compares the directions at the embedding and after every block."""
    model = mi_lens.load(config.model)
    traces = sampled_traces(config, model, config.load_problems(), 1)
    hooks = ["blocks.0.hook_resid_pre", *block_outputs(model)]
    settings: dict[str, Any] = {"seed": config.seed, "batch_size": config.batch_size}
    by_hook = reading_vectors(model, traces, hooks, **settings)
    probe = mi_lens.separability(model, traces, hooks, **settings)
    for hook, vectors in by_hook.items():
        aucs = ", ".join(f"{kind} {auc.auc:.3f}" for kind, auc in vectors.auc.items())
        print(f"{hook}: probe {probe[hook].auc:.3f}, {aucs}")
    fields = ("explained", "cosine", "pairs", "auc", "gain")
    numbers = {
        hook: {field: getattr(vectors, field) for field in fields} | {"probe": probe[hook]}
        for hook, vectors in by_hook.items()
    }
    save(
        config,
        {config.model: mi_lens.model_fingerprint(model)},
        reading_figure(by_hook),
        finding(by_hook),
        {"hooks": numbers},
    )


def finding(by_hook: Mapping[str, ReadingVectors]) -> Finding:
    """Whether any reading vector separates thoughts better than the difference of means."""
    blocks = {
        hook: vectors for hook, vectors in by_hook.items() if hook.endswith("hook_resid_post")
    }
    gains = [
        (gain, hook, kind)
        for hook, vectors in blocks.items()
        for kind, gain in vectors.gain.items()
    ]
    better = sum(side(gain) > 0 for gain, _, _ in gains)
    worse = sum(side(gain) < 0 for gain, _, _ in gains)
    most = max((gain.high if gain.high is not None else 1.0) for gain, _, _ in gains)
    best = max(blocks.values(), key=lambda vectors: vectors.auc[MEANS].auc)
    auc = best.auc[MEANS]
    gain, hook, kind = max(gains, key=lambda place: place[0].mean or 0.0)
    return Finding(
        about="further reading: reading vectors (Zou et al., arXiv 2310.01405); paper 2",
        claim="The difference of means is the direction that tells kinds of thoughts apart.",
        tests=tuple(
            ClaimTest(
                f"{MARGIN:g} less the gain of {kind!r} at {hook}",
                affine(gain, -1, MARGIN),
                0.0,
                "of AUC",
            )
            for gain, hook, kind in gains
        ),
        text="The difference of means tells execution from other thoughts with a held-out AUC of "
        f"{auc.auc:.2f} ({auc.low:.2f} to {auc.high:.2f}) at best ({best.hook_name}). Reading "
        f"vectors do better at {better} and worse at {worse} of {len(gains)} places (intervals not "
        f"corrected for their number): their AUC differs most in their favour with {kind!r} at "
        f"{hook}, by {with_interval(gain, digits=3)}, and no interval reaches above {most:+.3f} "
        f"(below {MARGIN:+.2f} counts as no better).",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
