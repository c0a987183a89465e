"""SEAL's vector at several strengths, among many random directions of the same length.

python -m experiments.dose_response
"""

from collections.abc import Mapping
from dataclasses import dataclass

import tyro

import mi_lens
from experiments.labels import ClaimTest, Finding, Premise
from experiments.steering import SteeringStudy, short_table, vector_traces
from experiments.study import save, saved_evaluation
from experiments.summaries import affine, with_interval
from mi_lens.common.intervals import estimate_share
from mi_lens.common.statistics import Estimate
from mi_lens.evaluation.dose_response import DoseResponse, dose_conditions, dose_response
from mi_lens.report.plots.dose_response import dose_response_figure

CHANGED = 0.05  # The share of traces that steering must change for its effects to be compared.


@dataclass(frozen=True, kw_only=True)
class Config(SteeringStudy):
    """What to run.

    Attributes:
        alphas: Strengths, as multiples of the norm of the state that is steered.
        directions: Number of random directions; p-values are 1 / (directions + 1) at least.
    """

    limit: int = 30
    vector_limit: int | None = 120
    alphas: tuple[float, ...] = (-0.5, 0.5, 1.0)
    directions: int = 19


def main(config: Config) -> None:
    """Steers by the vector and by random directions, at every strength."""
    model = mi_lens.load(config.model)
    problems = config.load_problems()
    hook_name = config.hook_name(model)
    traces = vector_traces(config, model, problems)
    vector = mi_lens.extract_steering_vectors(model, traces, [hook_name])[hook_name]
    conditions = dose_conditions(
        vector,
        config.alphas,
        directions=config.directions,
        seed=config.seed,
        unit="state",
    )
    evaluation = saved_evaluation(config, model, problems, conditions)
    response = dose_response(evaluation)
    print(short_table(evaluation))
    tokens = evaluation.arm(evaluation.names[0]).tokens()
    changed = {alpha: changed_traces(evaluation, f"vector, {alpha:g}") for alpha in response.alphas}
    save(
        config,
        {config.model: mi_lens.model_fingerprint(model)},
        dose_response_figure(response),
        finding(response, tokens, changed),
        {
            "hook": hook_name,
            "norm of the vector": vector.norm,
            "response": response,
            "tokens without steering": tokens,
            "traces changed": changed,
        },
    )


def changed_traces(evaluation: mi_lens.Evaluation, name: str) -> Estimate:
    """The share of traces whose length or answer steering changes, over problems."""
    steered = evaluation.arm(name).by_problem()
    base = evaluation.arm(evaluation.names[0]).by_problem()
    return estimate_share(
        [
            float((ours[0].tokens, ours[0].answer) != (theirs[0].tokens, theirs[0].answer))
            for ours, theirs in zip(steered.values(), base.values(), strict=True)
        ]
    )


def finding(response: DoseResponse, tokens: Estimate, changed: Mapping[float, Estimate]) -> Finding:
    """Whether the vector shortens traces more than a random step of the same size."""
    slope, accuracy = response.slopes["tokens"], response.slopes["accuracy"]
    strongest = max(response.alphas)
    count = len(slope.directions)
    return Finding(
        about="paper 2, steering by a vector; criticism: no control by random directions",
        claim="It is the vector's direction that shortens traces, not the size of the step.",
        premises=(
            Premise(
                text="The claim presupposes that steering changes something: at the strongest "
                f"dose, {strongest:g} |h|, {with_interval(changed[strongest], 100)} % of traces "
                "have another length or answer.",
                otherwise="premise not met",
                value=changed[strongest],
                least=CHANGED,
            ),
        ),
        tests=(
            ClaimTest(
                "tokens per unit of alpha by random directions less those by the vector",
                affine(slope.excess, -1),
                0.05 * (tokens.mean or 0.0),
                "tokens",
            ),
        ),
        text=f"Per |h| of steering the vector changes tokens by {with_interval(slope.vector)} and "
        f"random directions by {with_interval(slope.random)} (vector less random "
        f"{with_interval(slope.excess)}, rank {slope.rank + 1} of {count + 1}, p = "
        f"{slope.p_value:.2g}), and accuracy by {with_interval(accuracy.vector, 100)} against "
        f"{with_interval(accuracy.random, 100)} points (p = {accuracy.p_value:.2g}). Directions "
        f"differ among themselves by {slope.between:.1f} tokens and {100 * accuracy.between:.1f} "
        f"points (standard deviations beyond chance), on {response.problems} problems.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
