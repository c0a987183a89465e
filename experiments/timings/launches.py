"""Kernels launched, copies and waits of a decoded step, counted on an accelerator that is none.

    python -m experiments.timings.launches

However fast a GPU is, the host starts each of its kernels, and waits for it at each copy back. The
numbers are the same on every machine, so they are counted without a GPU: tensors on the CPU say
that they are on `cuda:0` (tests/pretend_device). A step is the difference between two generations
of different lengths, and without CUDA graphs, of which one replays many kernels at once. The model
has the blocks of Qwen2.5-0.5B (24 layers, 14 heads of queries on 2 of keys, biases, tied
embeddings) with narrow heads, as the number of launches does not depend on their width, in bfloat16
with random weights. What a GPU takes for them was not measured.
"""

import argparse
import json
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

import mi_lens
from experiments.timings.decode import lens_generate, sharing_weights, untouched_transformer
from mi_lens.models.backends.lookup import available, get_backend
from tests.pretend_device import Devices, pretend_devices

SHAPE = {
    "hidden_size": 112,
    "intermediate_size": 64,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
KINDS = "launches", "waits", "uploads", "downloads"
PROMPT, SHORT, LONG = 40, 6, 10  # Tokens: of the prompt, and written by the two generations.
RECORD = Path(__file__).with_suffix(".json")
Generate = Callable[[int], Any]


def source_model(shape: dict[str, Any], tokenizer: Any, device: str) -> Any:
    """Hugging Face's model of this shape on a device, with random weights."""
    config = transformers.Qwen2Config(**shape, vocab_size=len(tokenizer), eos_token_id=None)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = transformers.AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation="sdpa"
        )
    return model.requires_grad_(False).to(device).eval()


def hugging_face(model: Any, tokens: Tensor) -> Generate:
    """Hugging Face's model in the shortest loop: greedy, one copy to the host at the end."""

    def run(count: int) -> list[Any]:
        cache, new, written = transformers.DynamicCache(config=model.config), tokens, []
        for _ in range(count):
            logits = model(new, past_key_values=cache, logits_to_keep=1).logits
            new = logits[:, -1].argmax(-1, keepdim=True)
            written.append(new)
        return torch.cat(written, dim=1).tolist()

    return run


def ours(model: Any, prompts: list[str], conditions: list[Any]) -> Generate:
    """mi_lens.generate to the full length, each prompt under its condition."""

    def run(count: int) -> list[mi_lens.Trace]:
        requests = [
            mi_lens.Request(prompt, condition, "raw", max_new_tokens=count, stop=(-1,))
            for prompt, condition in zip(prompts, conditions, strict=True)
        ]
        return mi_lens.generate(model, requests, batch_size=len(requests), progress=False)

    return run


def eight_conditions(model: Any) -> list[mi_lens.Condition]:
    """Conditions of every kind, as a sweep mixes them in one batch; each acts at every step."""
    middle = model.cfg.n_layers // 2
    hook = f"blocks.{middle}.hook_resid_post"
    direction = torch.linspace(-1, 1, model.cfg.d_model)
    words = list(range(len(model.tokenizer)))
    each: list[Any] = [
        [],
        [mi_lens.Suppress(words[::2])],
        [mi_lens.LogitPenalty(words[::2], -3.0)],
        [mi_lens.Steer(direction, hook, at=words, inside_think=False)],
        [mi_lens.Steer(direction, hook, at="all", inside_think=False)],
        [mi_lens.Recycle(middle, words)],
        [mi_lens.Recycle(middle, words, trigger="consumed")],
        [mi_lens.RaiseTemperature(words, 2.0)],
    ]
    return [mi_lens.Condition(tuple(interventions)) for interventions in each]


def a_step(devices: Devices, generate: Generate, short: int, long: int) -> dict[str, float]:
    """What one step takes: the difference of two generations, per token.

    A generation before them makes what is made once, such as the copies of lists of rows.
    """
    generate(short)
    totals = []
    for count in (short, long):
        with devices.counted() as counts:
            generate(count)
        totals.append(counts.totals())
    return {kind: (totals[1][kind] - totals[0][kind]) / (long - short) for kind in KINDS}


def prompts_of(tokenizer: Any, rows: int, tokens: int = PROMPT) -> list[str]:
    """Prompts of equal length that differ from their first token on."""
    fillers = [" is"] * tokens
    heads = [tokenizer.decode([tokenizer.vocab_size // 2 + row]) for row in range(rows)]
    return ["".join([head, *fillers[1:]]) for head in heads]


@contextmanager
def models_on_a_pretend_device(
    shape: dict[str, Any], cudnn: bool = False
) -> Iterator[tuple[Devices, dict[str, Any]]]:
    """Inside, models of one shape and one set of weights are on a pretend device, by name."""
    tokenizer = mi_lens.load_tokenizer("pocket-reasoner")
    tokenizer.eos_token = None  # No trace ends before its budget.
    with pretend_devices(cudnn=cudnn) as devices:
        source = source_model(shape, tokenizer, "cuda:0")
        models = {"Hugging Face": source}
        if "hooked" in available():
            models["HookedTransformer"] = untouched_transformer(source, tokenizer)
            models["hooked"] = get_backend("hooked").build(sharing_weights(source), tokenizer)
        models["bridge"] = get_backend("bridge").build(sharing_weights(source), tokenizer)
        yield devices, models


def runs(models: dict[str, Any]) -> Iterator[tuple[str, str, Generate]]:
    """Each engine with what it does: one row, eight, eight conditions, eight sampled rows."""
    tokenizer = models["bridge"].tokenizer
    for rows in (1, 8):
        prompts = prompts_of(tokenizer, rows)
        ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
        tokens = torch.tensor(ids).to("cuda:0")
        what = f"batch {rows}"
        yield "Hugging Face, sdpa", what, hugging_face(models["Hugging Face"], tokens)
        if "HookedTransformer" in models:
            run = lens_generate(models["HookedTransformer"], tokens)
            yield "HookedTransformer.generate", what, run
    for name in [name for name in ("hooked", "bridge") if name in models]:
        model, engine = models[name], f"mi_lens, {name}"
        eight = prompts_of(tokenizer, 8)
        plain, sampled = mi_lens.Condition(), mi_lens.Condition((), mi_lens.Sampling(0.8, 0.95))
        yield engine, "batch 1", ours(model, eight[:1], [plain])
        yield engine, "batch 8", ours(model, eight, [plain] * 8)
        yield engine, "8 conditions", ours(model, eight, eight_conditions(model))
        yield engine, "8 sampled", ours(model, eight, [sampled] * 8)


def steps(shape: dict[str, Any], short: int, long: int) -> list[dict[str, Any]]:
    """What a step of every engine takes."""
    with models_on_a_pretend_device(shape) as (devices, models):
        return [
            {"engine": engine, "what": what, **a_step(devices, generate, short, long)}
            for engine, what, generate in runs(models)
        ]


def kernels(devices: Devices, run: Callable[..., Any], *args: Any) -> Counter[str]:
    """Calls of the attention kernels by what they were given."""
    calls: Counter[str] = Counter()
    with devices.counted() as counts:
        run(*args)
    for (given, _), count in counts.attention.items():
        calls[given] += count
    return calls


def attention(shape: dict[str, Any]) -> dict[str, dict[str, int]]:
    """The kernels that serve prompts, steps and captures where cuDNN would come first."""
    found: dict[str, dict[str, int]] = {}
    with models_on_a_pretend_device(shape, cudnn=True) as (devices, models):
        for name in sorted(set(models) & {"hooked", "bridge"}):
            model = models[name]
            equal = prompts_of(model.tokenizer, 2)
            unequal = [equal[0], *prompts_of(model.tokenizer, 1, PROMPT // 2)]
            for what, prompts in (("equal", equal), ("unequal", unequal)):
                generate = ours(model, prompts, [mi_lens.Condition()] * 2)
                prompt = kernels(devices, generate, 1)
                found[f"{name}, prompts of {what} length"] = dict(prompt)
                step = kernels(devices, generate, 2) - prompt
                found[f"{name}, a step after {what} prompts"] = dict(step)
            trace = generate(2)[0]
            hook = f"blocks.{model.cfg.n_layers // 2}.hook_resid_post"
            found[f"{name}, capture"] = dict(
                kernels(devices, mi_lens.capture, model, [trace], hook)
            )
    return found


def table(record: dict[str, Any]) -> str:
    """The record as two tables of Markdown."""
    lines = [f"| engine | | {' | '.join(KINDS)} |", f"|---|---|{'---|' * len(KINDS)}"]
    for step in record["steps"]:
        numbers = " | ".join(f"{step[kind]:.4g}" for kind in KINDS)
        lines.append(f"| {step['engine']} | {step['what']} | {numbers} |")
    lines += ["", "| passes | attention kernel | calls |", "|---|---|---|"]
    for name, calls in record["attention"].items():
        lines += [f"| {name} | {given} | {count} |" for given, count in calls.items()]
    return "\n".join(lines)


def measure(shape: dict[str, Any], short: int, long: int) -> dict[str, Any]:
    """The whole record."""
    versions = {p.__name__: p.__version__ for p in (torch, transformers)}
    found = {"steps": steps(shape, short, long), "attention": attention(shape)}
    return {"shape": shape, "versions": versions, **found}


def main() -> None:
    """Prints the tables and writes the record."""
    parser = argparse.ArgumentParser(description="Launches, copies and waits of a decoded step.")
    parser.add_argument("--out", type=Path, default=RECORD)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # HookedTransformer is deprecated.
    logging.disable(logging.WARNING)
    record = measure(SHAPE, SHORT, LONG)
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(table(record))


if __name__ == "__main__":
    main()
