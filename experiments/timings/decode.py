"""Times decoding: tokens per second of mi_lens with a hook, and of Hugging Face without hooks.

    python -m experiments.timings.decode --shape pocket --batch 8 --context 1024
    python -m experiments.timings.decode --shape 0.5b --batch 1 --context 32
    python -m experiments.timings.decode --shape smollm2 --batch 8 --context 32

All engines run in one process, on one set of weights, in turn and several times. A step begins
when it enters the embedding and ends when it leaves the unembedding. Its time is that from the end
of the step before to its own end, so it includes the loop around the model. The prompt's step does
not count. With one CPU thread the clock is the CPU time of the process, which other work disturbs
least. HookedTransformer's own generate keeps its weights in TransformerLens's layout.
"""

import argparse
import copy
import logging
import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
import transformers
from torch import Tensor

import mi_lens
from experiments.timings.hsic import clock_for
from mi_lens.models.backends.lookup import available, get_backend
from mi_lens.models.pocket import CHECKPOINTS

HALF_BILLION = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
}
SMOLLM2 = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49_152,
    "tie_word_embeddings": True,
}
RANDOM = {
    "0.5b": lambda: transformers.Qwen2Config(**HALF_BILLION),
    "smollm2": lambda: transformers.LlamaConfig(**SMOLLM2),
}
FILLER = " is"


@dataclass
class Engine:
    """One way to generate, with its times.

    Attributes:
        name: Name in the table.
        generate: Generates a given number of tokens after the prompt.
        embedding: The module at which a step begins.
        unembedding: The module at which a step ends.
        steps: Seconds from the end of each step to the end of the next.
        inside: Seconds that each of these steps spends in the model.
    """

    name: str
    generate: Callable[[int], Any]
    embedding: torch.nn.Module
    unembedding: torch.nn.Module
    steps: list[float] = field(default_factory=list)
    inside: list[float] = field(default_factory=list)

    def run(self, new_tokens: int, clock: Callable[[], float]) -> None:
        """Generates once, and records the times of all steps after the prompt's."""
        starts: list[float] = []
        steps: list[tuple[float, float]] = []
        handles = [
            self.embedding.register_forward_pre_hook(lambda *_: starts.append(clock())),
            self.unembedding.register_forward_hook(lambda *_: steps.append((starts[-1], clock()))),
        ]
        try:
            self.generate(new_tokens)
        finally:
            for handle in handles:
                handle.remove()
        assert len(steps) == new_tokens, f"{self.name} took {len(steps)} steps for {new_tokens}"
        self.steps += [after[1] - before[1] for before, after in pairwise(steps)]
        self.inside += [end - start for start, end in steps[1:]]


def source_model(shape: str, device: str) -> Any:
    """Hugging Face's model, in float32 on a CPU and bfloat16 on a GPU."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    if shape == "pocket":
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            CHECKPOINTS["pocket-reasoner"], dtype=dtype
        )
    else:
        model = transformers.AutoModelForCausalLM.from_config(RANDOM[shape](), dtype=dtype)
    return model.to(device).eval().requires_grad_(False)


def sharing_weights(model: Any) -> Any:
    """A second model with modules of its own and the same weights."""
    return copy.deepcopy(model, memo={id(weight): weight for weight in model.parameters()})


def all_engines(source: Any, prompt: str, batch: int) -> list[Engine]:
    """The four engines, with the same prompt in every row."""
    tokenizer = mi_lens.load("pocket-reasoner", device="cpu").tokenizer
    tokenizer.eos_token = None  # No trace ends before its budget.
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    tokens = torch.tensor([ids] * batch, device=source.device)
    bridge = get_backend("bridge").build(sharing_weights(source), tokenizer)
    ends = source.model.embed_tokens, source.lm_head
    run_bridge = lens_generate(bridge, tokens)
    engines = [
        Engine("transformers generate", hf_generate(source, tokens), *ends),
        Engine("TransformerBridge.generate", run_bridge, bridge.embed, bridge.unembed),
    ]
    if "hooked" not in available():
        return engines
    ours = get_backend("hooked").build(sharing_weights(source), tokenizer)
    untouched = untouched_transformer(source, tokenizer)
    run_untouched = lens_generate(untouched, tokens)
    run_ours = our_generate(ours, prompt, batch)
    return [
        *engines,
        Engine("HookedTransformer.generate", run_untouched, untouched.embed, untouched.unembed),
        Engine("mi_lens.generate, hooked", run_ours, ours.embed, ours.unembed),
    ]


def untouched_transformer(source: Any, tokenizer: Any) -> Any:
    """TransformerLens's HookedTransformer, in its own memory layout."""
    from transformer_lens import HookedTransformer  # TransformerLens 4 has no such class.

    from mi_lens.models.backends.conversion import convert_config, convert_weights

    cfg = convert_config(source)
    model = HookedTransformer(cfg, move_to_device=False)
    weights = {key: value.contiguous() for key, value in convert_weights(source, cfg).items()}
    model.load_state_dict(weights, strict=False, assign=True)
    model.tokenizer = tokenizer
    return model.to(source.device, print_details=False).eval().requires_grad_(False)


def hf_generate(model: Any, tokens: Tensor) -> Callable[[int], Any]:
    """Hugging Face's generate: greedy, to the full length."""
    mask = torch.ones_like(tokens)
    settings = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    return lambda count: model.generate(
        tokens, attention_mask=mask, max_new_tokens=count, **settings
    )


def lens_generate(model: Any, tokens: Tensor) -> Callable[[int], Any]:
    """The generate of either TransformerLens class: greedy, to the full length."""
    settings = {"do_sample": False, "stop_at_eos": False, "verbose": False}
    return lambda count: model.generate(tokens, max_new_tokens=count, **settings)


def our_generate(model: Any, prompt: str, batch: int) -> Callable[[int], Any]:
    """mi_lens.generate, with a hook on the residual stream half-way up.

    Prompts differ in their first tokens, because mi_lens reads equal prompts only once.
    """
    states = []
    name = f"blocks.{model.cfg.n_layers // 2}.hook_resid_post"
    prompts = [f"{row:03d}{prompt.removeprefix(3 * FILLER)}" for row in range(batch)]

    def run(count: int) -> None:
        states.clear()
        with model.hooks(fwd_hooks=[(name, lambda state, hook: states.append(state[:, -1]))]):
            mi_lens.generate(
                model,
                prompts,
                style="raw",
                max_new_tokens=count,
                stop=[-1],  # No token: every trace takes its budget.
                batch_size=batch,
                progress=False,
            )
        assert [len(rows) for rows in states] == [batch] * count

    return run


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Tokens per second while decoding.")
    parser.add_argument("--shape", choices=("pocket", *RANDOM), default="pocket")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--context", type=int, default=32)
    parser.add_argument("--new", type=int, help="tokens a run; default 64 (pocket), 8 (others)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")  # HookedTransformer is deprecated.
    logging.disable(logging.WARNING)
    new = args.new or (64 if args.shape == "pocket" else 8)
    clock = clock_for(args.device)
    engines = all_engines(source_model(args.shape, args.device), FILLER * args.context, args.batch)
    with torch.inference_mode():
        for _ in range(args.repeats):
            for engine in engines:
                engine.run(new, clock)
    medians = [statistics.median(engine.steps) for engine in engines]
    print(f"{args.shape}, batch {args.batch}, after {args.context} tokens, {args.device}")
    print(f"{'':28}{'tokens/s':>10}{'to HF':>8}{'ms/step':>9}{'outside the model':>20}")
    for engine, median in zip(engines, medians, strict=True):
        outside = 1 - statistics.median(engine.inside) / median
        print(
            f"{engine.name:28}{args.batch / median:10.1f}{medians[0] / median:8.2f}"
            f"{1000 * median:9.2f}{outside:20.0%}"
        )


if __name__ == "__main__":
    main()
