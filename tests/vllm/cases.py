"""Conditions of every kind, and requests that mix them."""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from mi_lens.generation.generate import generate
from mi_lens.generation.request import Request, end_of_text_ids
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.extend import Continue
from mi_lens.interventions.forbid import ForbidAt
from mi_lens.interventions.gate import Gate
from mi_lens.interventions.probe import StateProbe
from mi_lens.interventions.recycle import Recycle
from mi_lens.interventions.sampling import Sampling
from mi_lens.interventions.steer import Steer
from mi_lens.interventions.suppress import LogitPenalty, Suppress
from mi_lens.interventions.temperature import RaiseTemperature
from mi_lens.traces.trace import Trace
from mi_lens.traces.vocabulary import word_ids

SAMPLINGS = (
    Sampling(0.8, top_p=0.95),
    Sampling(1.0, top_k=8),
    Sampling(1.2, min_p=0.05),
)


def words_of(model: Any, traces: Sequence[Trace]) -> list[int]:
    """Token ids that texts are full of, but for those that end one."""
    counts = Counter(token for trace in traces for token in trace.token_ids)
    for end in end_of_text_ids(model):
        counts.pop(end, None)
    return [token for token, _ in counts.most_common(8)]


def steerings(model: Any, words: Sequence[Any]) -> list[Steer]:
    """Every variant, place and hook name."""
    generator = torch.Generator().manual_seed(1)
    vector = torch.randn(model.cfg.d_model, generator=generator, dtype=torch.float64)
    last = model.cfg.n_layers - 1
    post, pre = (f"blocks.{last - 1}.hook_resid_post", f"blocks.{last}.hook_resid_pre")
    return [
        Steer(vector, post, 0.3),
        Steer(vector, post, 0.3, inside_think=False, prompt=True),
        Steer(vector, pre, 0.2, at=words),
        Steer(vector, "blocks.0.hook_resid_pre", 0.05, at="all", prompt=True),
        Steer(vector, post, 0.7, at="all", variant="project", inside_think=False),
        Steer(vector, pre, 0.7, at=words, variant="project", prompt=True, inside_think=False),
        Steer(vector, post, 0.2, at=words, variant="random", seed=3, inside_think=False),
        Steer(vector, f"blocks.{last}.hook_resid_post", 0.1, at="all", variant="random"),
        Steer(vector, post, 0.2, at=words, inside_think=False, unit="state", keep_norm=True),
        Steer(vector, pre, -0.1, at="all", variant="random", unit="state", prompt=True),
    ]


def recyclings(model: Any, words: Sequence[Any]) -> list[Recycle]:
    """Both triggers, with and without new keys and values, once and several times, at chance."""
    layers, last = range(model.cfg.n_layers), model.cfg.n_layers - 1
    return [
        *(Recycle(layer, words) for layer in layers),
        *(Recycle(layer, words, trigger="consumed") for layer in layers),
        Recycle(0, words, passes=2, kv="keep"),
        Recycle(1, words, kv="keep", trigger="consumed"),
        Recycle(last - 1, words, passes=3, probability=0.5),
        Recycle(1, words, passes=2, probability=0.5, trigger="consumed"),
        Recycle(last, words, kv="keep", probability=0.7),
        Recycle((0, 1), words, passes=2, damping=0.5),
        Recycle((1, last), words, trigger="consumed", damping=0.7),
        Recycle((0, last), words, kv="keep"),
        Recycle((0, 1), words, passes=2, kv="keep", trigger="consumed"),
    ]


def probe(model: Any, hook_name: str) -> StateProbe:
    """A probe with random weights, which about half of all steps are above."""
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(model.cfg.d_model, generator=generator, dtype=torch.float64).tolist()
    return StateProbe(hook_name, weights, 0.0, "", "peak", 0.5, 0.4, 0.6, 1, 1, (0.0, 1.0), {})


def gates(model: Any, words: Sequence[Any]) -> list[Gate]:
    """Every condition, around what acts on states, on logits, on the draw and on candidates."""
    steer, recycle = steerings(model, words), recyclings(model, words)
    early = probe(model, "blocks.0.hook_resid_post")
    late = probe(model, f"blocks.{model.cfg.n_layers - 1}.hook_resid_pre")
    return [
        Gate(recycle[1], entropy=0.5),
        Gate(steer[3], entropy=0.2, steps=(2, 20)),
        Gate(Recycle((0, 1), words, trigger="consumed", damping=0.5), entropy=0.1, times=3),
        Gate(Suppress(words[:4]), entropy=0.3),
        Gate(RaiseTemperature(words, 1.3), entropy=0.1),
        Gate(recycle[0], probe=late),
        Gate(steer[6], probe=early),
        Gate(Suppress(words[:4]), probe=early, times=5),
    ]


def combinations(model: Any, words: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Several interventions at once, which act in this order."""
    steer, last = steerings(model, words), model.cfg.n_layers - 1
    return [
        (Suppress(words[:1]), Recycle(1, words), steer[2]),
        (steer[3], Recycle(0, words, trigger="consumed"), Recycle(1, words, trigger="consumed")),
        (steer[4], steer[6], LogitPenalty(words[:2], -1.0), Recycle(1, words, kv="keep")),
        (steer[3], Recycle(1, words, passes=2, trigger="consumed"), steer[7]),
        (steer[2], Recycle((0, last), words, trigger="consumed"), steer[0]),
        (*gates(model, words)[1:4], gates(model, words)[7]),
        (RaiseTemperature(words, 1.3), Continue(["So"], before="", reserve=4), steer[1]),
    ]


def kinds(model: Any, words: Sequence[Any]) -> list[list[tuple[Any, ...]]]:
    """Interventions of every kind, each kind in its variants."""
    ends = sorted(end_of_text_ids(model))
    ids = sorted(word_ids(model, words))
    steer = [(each,) for each in steerings(model, words)]
    recycle = [(each,) for each in recyclings(model, words)]
    return [
        [()],
        [(Suppress(words[:2]),), (LogitPenalty(words, -2.0),)],
        [(ForbidAt(3, ids[0]), ForbidAt(20, ids[-1])), (RaiseTemperature(words, 1.0),)],
        [
            (LogitPenalty(ends, 5.0),),
            (LogitPenalty(ends, 5.0), Continue(["So", "Now"], before="", reserve=8)),
            (LogitPenalty(ends, 20.0), Continue(["So", "Now"], times=3, before="", reserve=8)),
        ],
        steer[::2],
        steer[1::2],
        *(recycle[i::4] for i in range(4)),
        [(each,) for each in gates(model, words)],
        combinations(model, words),
    ]


def requests_of(
    model: Any, problems: Sequence[Any], words: Sequence[Any], new_tokens: int = 30
) -> list[Request]:
    """Every kind of intervention for every problem, in each variant in turn; shuffled.

    One is greedy, the next sampled. Of every three requests, the first begins with the prompt, the
    second with a prefix, and the third ends at a text or token.
    """
    plain = generate(model, problems, max_new_tokens=60, batch_size=64, progress=False)
    nine = model.tokenizer.encode("9", add_special_tokens=False)[-1]
    requests = []
    for i, variants in enumerate(kinds(model, words)):
        conditions = [
            (Condition(parts), Condition(parts, SAMPLINGS[k % len(SAMPLINGS)]))
            for k, parts in enumerate(variants)
        ]
        for j, problem in enumerate(problems):
            condition = conditions[(j // 2) % len(variants)][(i + j) % 2]
            prefix, stop = (), ()
            if (i + j) % 3 == 1:
                prefix = plain[j].token_ids[: min(10 + j % 30, len(plain[j]) - 1)]
            elif (i + j) % 3 == 2:
                stop = (nine,) if j % 2 else ("9", " = 7")
            limits = {"max_new_tokens": len(prefix) + new_tokens, "stop": stop, "prefix": prefix}
            requests.append(Request(problem, condition, seed=j, **limits))
    random.Random(0).shuffle(requests)
    return requests
