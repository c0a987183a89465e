"""Times a sweep over layers in one batch, and the same conditions one by one.

    python -m experiments.timings.sweep

Times are CPU time of one thread. There are two shapes: a step of the pocket reasoner costs by the
row; a step of a random model of the 0.5B shape costs by its weights, whatever the number of rows.
"""

import argparse
import time
from typing import Any

import torch

import mi_lens
from experiments.timings.decode import source_model
from mi_lens import Condition, Recycle, Request
from mi_lens.models.backends.lookup import get_backend


def seconds(model: Any, problems: Any, conditions: Any, tokens: int, batch: int) -> float:
    """CPU time of all conditions on all problems."""
    requests = [
        Request(problem, condition, max_new_tokens=tokens)
        for problem in problems
        for condition in conditions
    ]
    start = time.process_time()
    mi_lens.generate(model, requests, batch_size=batch, progress=False)
    return time.process_time() - start


def compare(name: str, model: Any, problems: Any, conditions: Any, tokens: int, batch: int) -> None:
    """Prints both times and their ratio."""
    seconds(model, problems, conditions[:1], 4, batch)
    together = seconds(model, problems, conditions, tokens, batch)
    apart = sum(seconds(model, problems, [condition], tokens, batch) for condition in conditions)
    print(
        f"{name}: {len(conditions)} conditions, {len(problems)} problems, batch {batch}: together "
        f"{together:.1f} s, one by one {apart:.1f} s, ratio {together / apart:.2f}",
        flush=True,
    )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Times a sweep in one batch, and one by one.")
    parser.add_argument("--problems", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--tokens", type=int, default=12, help="new tokens at the 0.5B shape")
    args = parser.parse_args()
    torch.set_num_threads(1)
    words = ["Wait", "Hmm", "Hold", "Actually"]
    model = mi_lens.load("pocket-reasoner", device="cpu")
    conditions = [
        Condition((Recycle(layer, words, passes),)) for layer in range(4) for passes in (1, 2)
    ]
    for count in args.problems:
        problems = mi_lens.load_problems("pocket", limit=count)
        compare("pocket, RR layers x passes", model, problems, [Condition(), *conditions], 512, 128)
    torch.manual_seed(0)
    large = get_backend("hooked").build(source_model("0.5b", "cpu"), model.tokenizer)
    (plain,) = mi_lens.generate(large, ["What is 2?"], max_new_tokens=args.tokens, progress=False)
    # Every layer recycles at the token that the model writes half-way.
    token = plain.token_ids[args.tokens // 2]
    layers = range(large.cfg.n_layers)
    sweep = [Condition(), *(Condition((Recycle(layer, [token]),)) for layer in layers)]
    compare("0.5B shape, RR at all layers", large, ["What is 2?"], sweep, args.tokens, 32)


if __name__ == "__main__":
    main()
