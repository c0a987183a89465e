"""Train a pocket model.

    python -m mi_lens.models.pocket.training.train --model pocket-reasoner --out DIR

The models differ in their training text. pocket-rl-base also has eight layers, four of which begin
as those of pocket-reasoner; its card has its command.

A run is seeded and may be killed at any time: the same command resumes it from its last saved
state. It then ends with the same weights, as long as the number of threads is the same.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from time import process_time
from typing import Any, Literal

import torch
import tyro
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm
from transformers import GenerationConfig, PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM

from mi_lens.models.pocket import CHECKPOINTS
from mi_lens.models.pocket.training.batches import IGNORED, cut_batches, make_targets, write_texts
from mi_lens.models.pocket.training.growing import begin_with
from mi_lens.models.pocket.training.resuming import (
    Progress,
    load_state,
    save_state,
    settings_of,
    trim_log,
)
from mi_lens.models.pocket.training.tokenization import (
    CONTEXT_LENGTH,
    END_OF_TEXT,
    THINK_START,
    TURN_END,
    build_tokenizer,
    token_id,
)

STATE_FILE, LOG_FILE = "state.safetensors", "log.jsonl"
IMMATERIAL = ("out", "device")  # Settings that a resumed run may change.


@dataclass(frozen=True)
class Shape:
    """The size of the model."""

    layers: int = 4
    width: int = 128
    heads: int = 4
    key_value_heads: int = 2
    mlp_width: int = 384


@dataclass(frozen=True)
class TrainConfig:
    """What to train and how.

    Attributes:
        model: "pocket-reasoner" reads traces that reflect, "pocket-base" traces that do not,
            "pocket-rl-base" traces whose checks are optional.
        out: Folder for the saved state, the loss log and the finished checkpoint.
        seed: Seed of the initial weights and the text.
        tokens: Number of tokens of the main stage, including prompts.
        polish_tokens: Number of tokens of the second stage, whose drills are mostly differences of
            close numbers.
        shape: The size of the model.
        start: A built-in model of the same shape with as many layers or fewer, whose weights it
            begins with; None begins with random ones.
        batch_tokens: Largest number of tokens per batch, including padding.
        block_texts: Number of texts that are written, sorted by length and cut into batches
            together; they are a block.
        temperature: The finished model's logits are divided by it. Below 1, its traces are nearer
            to the likeliest ones than those of the text are.
        blocks_per_save: Number of blocks between two saves of the state.
        drill_share: Share of drills among the texts of the first third of the main stage.
        late_drill_share: Share of drills in the rest of the main stage.
        polish_drill_share: Share of drills in the second stage.
        matrix_rate: Peak learning rate of Muon, for the matrices inside the layers.
        other_rate: Peak learning rate of AdamW, for everything else.
        matrix_decay: Weight decay of the matrices; it keeps residual norms moderate.
        warm_up: Share of the main stage, at its start, in which the learning rates rise.
        cool_down: Share of the main stage, at its end, in which the learning rates fall to zero.
        polish_rate: Share of the peak rates at which the second stage starts; they fall to zero.
        device: The torch device to train on.
        threads: Number of CPU threads; a run can be repeated exactly only with the same number.
        compiled: Whether torch compiles the model, which takes minutes and needs a C++ compiler,
            and then trains half as fast again.
    """

    model: Literal["pocket-reasoner", "pocket-base", "pocket-rl-base"]
    out: Path
    seed: int = 0
    tokens: int = 14_000_000
    polish_tokens: int = 4_000_000
    shape: Shape = field(default_factory=Shape)
    start: Literal["pocket-reasoner", "pocket-base"] | None = None
    batch_tokens: int = 2048
    block_texts: int = 512
    temperature: float = 1.0
    blocks_per_save: int = 10
    drill_share: float = 0.4
    late_drill_share: float = 0.05
    polish_drill_share: float = 0.25
    matrix_rate: float = 0.02
    other_rate: float = 3e-3
    matrix_decay: float = 0.1
    warm_up: float = 0.02
    cool_down: float = 0.5
    polish_rate: float = 0.3
    device: str = "cpu"
    threads: int = 1
    compiled: bool = False


def build_model(
    shape: Shape, tokenizer: PreTrainedTokenizerBase, device: str = "cpu"
) -> Qwen2ForCausalLM:
    """A model with random weights, drawn from torch's global generator."""
    config = Qwen2Config(
        vocab_size=math.ceil(len(tokenizer) / 64) * 64,
        hidden_size=shape.width,
        intermediate_size=shape.mlp_width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        max_position_embeddings=CONTEXT_LENGTH,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=token_id(TURN_END, tokenizer),
        pad_token_id=token_id(END_OF_TEXT, tokenizer),
    )
    with torch.device(device):
        model = Qwen2ForCausalLM(config)
    model.set_attn_implementation("eager")  # the fastest to train on a CPU at these lengths
    return model


def loss_of(
    model: Qwen2ForCausalLM, ids: Int[Tensor, "batch pos"], targets: Int[Tensor, "batch pos"]
) -> Float[Tensor, ""]:
    """Mean cross-entropy in nats; matrix products in bfloat16, the rest in float32."""
    with torch.autocast(ids.device.type, torch.bfloat16):
        logits = model(input_ids=ids, use_cache=False).logits
    return torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED
    )


def build_optimizers(
    model: Qwen2ForCausalLM, config: TrainConfig
) -> dict[str, torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings, norms and biases."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    inside = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in inside]
    return {
        "muon": torch.optim.Muon(
            matrices, lr=config.matrix_rate, weight_decay=config.matrix_decay, momentum=0.95
        ),
        "adamw": torch.optim.AdamW(
            others, lr=config.other_rate, weight_decay=0.0, betas=(0.9, 0.98)
        ),
    }


def rate_factor(config: TrainConfig, tokens: int, polish: bool) -> float:
    """The learning rates after so many tokens, as a share of their peaks.

    In the main stage they rise, stay at the peak and fall to zero. In the second stage they fall
    to zero again, from `polish_rate`.
    """
    if polish:
        left = 1 - (tokens - config.tokens) / config.polish_tokens
        return config.polish_rate * max(0.0, left)
    done = tokens / config.tokens
    rise, fall = (done + 2e-3) / config.warm_up, (1 - done) / config.cool_down
    return max(0.0, min(1.0, rise, fall))


def drill_share(config: TrainConfig, tokens: int) -> float:
    """The share of drills among the texts after so many tokens."""
    if tokens < config.tokens / 3:
        return config.drill_share
    return config.late_drill_share if tokens < config.tokens else config.polish_drill_share


def train_block(
    config: TrainConfig,
    progress: Progress,
    model: Qwen2ForCausalLM,
    optimizers: dict[str, torch.optim.Optimizer],
    tokenizer: PreTrainedTokenizerBase,
) -> Iterator[tuple[int, float]]:
    """Train on one block; yields the number of tokens and the loss of each batch."""
    polish = progress.tokens >= config.tokens
    pad, think_start = token_id(END_OF_TEXT, tokenizer), token_id(THINK_START, tokenizer)
    drills = drill_share(config, progress.tokens)
    rng = Random(f"train/{config.seed}/{progress.block}")
    texts = write_texts(config.block_texts, drills, polish, config.model, rng, tokenizer)
    order = Random(f"order/{config.seed}/{progress.block}")
    for batch in cut_batches(texts, config.batch_tokens, pad, order):
        ids = batch.to(config.device)
        for optimizer in optimizers.values():
            factor = rate_factor(config, progress.tokens, polish)
            for group in optimizer.param_groups:
                group["lr"] = optimizer.defaults["lr"] * factor
        loss = loss_of(model, ids, make_targets(ids, think_start, pad))
        loss.backward()
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad()
        read = int(ids.ne(pad).sum())
        progress.tokens += read
        progress.step += 1
        yield read, loss.item()
    progress.block += 1


def train(config: TrainConfig) -> None:
    """Train until all tokens are read, starting from the saved state if any, and export."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    config.out.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    model = build_model(config.shape, tokenizer, config.device)
    if config.start is not None:
        begin_with(model, CHECKPOINTS[config.start])
    if config.compiled:
        model.forward = torch.compile(model.forward, dynamic=True)
    optimizers = build_optimizers(model, config)
    state_file, settings = config.out / STATE_FILE, settings_of(config, *IMMATERIAL)
    progress = load_state(state_file, settings, model, optimizers)
    trim_log(config.out / LOG_FILE, progress.block)
    budget = config.tokens + config.polish_tokens
    bar = tqdm(total=budget, initial=progress.tokens, unit="tok", unit_scale=True)
    with open(config.out / LOG_FILE, "a") as log, bar:
        while progress.tokens < budget:
            started, losses = process_time(), []
            for read, loss in train_block(config, progress, model, optimizers, tokenizer):
                losses.append(loss)
                bar.update(read)
            mean = sum(losses) / len(losses)
            bar.set_postfix(loss=f"{mean:.3f}")
            entry = {**asdict(progress), "loss": mean, "cpu_seconds": process_time() - started}
            log.write(json.dumps(entry) + "\n")
            log.flush()
            if progress.block % config.blocks_per_save == 0 or progress.tokens >= budget:
                save_state(state_file, settings, progress, model, optimizers)
    checkpoint = config.out / "checkpoint"
    with torch.no_grad():  # as float16, which the checkpoint has
        model.half().lm_head.weight /= config.temperature
    export(model, tokenizer, checkpoint)
    summary = summarize(config, config.out / LOG_FILE)
    (checkpoint / "training.json").write_text(json.dumps(summary, indent=2) + "\n")


def summarize(config: TrainConfig, log: Path) -> dict[str, Any]:
    """The settings, token count, loss curve and CPU time of a finished run."""
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    return {
        "settings": json.loads(settings_of(config, *IMMATERIAL)),
        "steps": entries[-1]["step"],
        "tokens": entries[-1]["tokens"],
        "loss": entries[-1]["loss"],
        "cpu_seconds": round(sum(entry["cpu_seconds"] for entry in entries)),
        "curve": [[entry["tokens"], round(entry["loss"], 4)] for entry in entries],
    }


def export(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the Hugging Face checkpoint, in float16."""
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=512,
        eos_token_id=model.config.eos_token_id,
        pad_token_id=model.config.pad_token_id,
    )
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    train(tyro.cli(TrainConfig))
