"""SEAL's difference of means beside reading vectors (first principal components of pairs).

python -m experiments.reading_vectors
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tyro

import mi_lens
from experiments.study import Finding, Study, Verdict, said, sampled_traces, save, side
from mi_lens.report.plots.thoughts import reading_figure
from mi_lens.steering.reading_vectors import MEANS, ReadingVectors, reading_vectors

MARGIN = 0.02  # Of AUC: what a better direction has to be able to gain.


@dataclass(frozen=True, kw_only=True)
class Config(Study):
    """What to run: one sampled trace a problem."""

    limit: int = 80


def main(config: Config) -> None:
    """Makes and tries the directions at the embedding and after every block."""
    model = mi_lens.load(config.model)
    traces = sampled_traces(config, model, config.load_problems(), 1)
    hooks = ["blocks.0.hook_resid_pre"]
    hooks += [f"blocks.{layer}.hook_resid_post" for layer in range(model.cfg.n_layers)]
    settings: dict[str, Any] = {"seed": config.seed, "batch_size": config.batch_size}
    found = reading_vectors(model, traces, hooks, **settings)
    probe = mi_lens.separability(model, traces, hooks, **settings)
    for hook, one in found.items():
        aucs = ", ".join(f"{kind} {auc.auc:.3f}" for kind, auc in one.auc.items())
        print(f"{hook}: probe {probe[hook].auc:.3f}, {aucs}")
    kept = ("explained", "cosine", "pairs", "auc", "gain")
    numbers = {
        hook: {field: getattr(one, field) for field in kept} | {"probe": probe[hook]}
        for hook, one in found.items()
    }
    save(
        config,
        {config.model: mi_lens.model_fingerprint(model)},
        reading_figure(found),
        finding(found),
        {"hooks": numbers},
    )


def finding(found: Mapping[str, ReadingVectors]) -> Finding:
    """Whether any reading vector tells thoughts apart better than the difference of means."""
    blocks = {hook: one for hook, one in found.items() if hook.endswith("hook_resid_post")}
    gains = [(gain, hook, kind) for hook, one in blocks.items() for kind, gain in one.gain.items()]
    better = sum(side(gain) > 0 for gain, _, _ in gains)
    worse = sum(side(gain) < 0 for gain, _, _ in gains)
    most = max((gain.high if gain.high is not None else 1.0) for gain, _, _ in gains)
    verdict: Verdict = "in part"
    if not better:
        verdict = "with" if most < MARGIN else "open"
    elif not worse:
        verdict = "against"
    best = max(blocks.values(), key=lambda one: one.auc[MEANS].auc)
    auc = best.auc[MEANS]
    gain, hook, kind = max(gains, key=lambda each: each[0].mean or 0.0)
    return Finding(
        about="further reading: reading vectors (Zou et al., arXiv 2310.01405); paper 2",
        claim="The difference of means is the direction that tells kinds of thoughts apart.",
        verdict=verdict,
        text=f"The difference of means tells execution from other thoughts with a held-out AUC of "
        f"{auc.auc:.2f} ({auc.low:.2f} to {auc.high:.2f}) at best ({best.hook_name}). Reading "
        f"vectors do better at {better} and worse at {worse} of {len(gains)} places (intervals not "
        f"corrected for their number): their AUC differs most in their favour with {kind!r} at "
        f"{hook}, by {said(gain, digits=3)}, and no interval reaches above {most:+.3f} (below "
        f"{MARGIN:+.2f} counts as no better).",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
