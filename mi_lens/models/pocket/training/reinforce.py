"""Train pocket-rl from its base by on-policy reinforcement (GRPO, arXiv 2402.03300).

    python -m mi_lens.models.pocket.training.reinforce --start BASE --out DIR

The model draws several traces of each problem. A trace earns 1 if its boxed answer is right, and
pays a price per token; no trace is shown to it. Half of them are kept from reflecting, because a
model that always reflects would never see what a problem gives without. A problem of which no
trace is right is left out: it could only teach to write less.

A run is seeded and may be killed at any time: the same command resumes it from its last saved
state. It then ends with the same weights, as long as the numbers of threads and workers are the
same.
"""

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from random import Random
from time import process_time
from typing import Any

import torch
import torch.distributed as dist
import tyro
from torch.multiprocessing.spawn import spawn
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerBase,
    Qwen2ForCausalLM,
)

from mi_lens.models.pocket.training.behaviour import Conduct, count, read_conduct
from mi_lens.models.pocket.training.decoding import variants
from mi_lens.models.pocket.training.policy import group_advantages, kl_estimate, policy_loss
from mi_lens.models.pocket.training.resuming import (
    Progress,
    load_state,
    save_state,
    settings_of,
    trim_log,
)
from mi_lens.models.pocket.training.rows import Rows, cut_rows, log_probs_of
from mi_lens.models.pocket.training.sampling import Sample, sample
from mi_lens.models.pocket.training.tokenization import (
    END_OF_TEXT,
    THINK_END,
    encode,
    prompt_of,
    token_id,
)
from mi_lens.models.pocket.training.train import LOG_FILE, STATE_FILE, export
from mi_lens.models.pocket.training.wording import REFLECTING
from mi_lens.problems.arithmetic import Exercise, draw_exercise

HELD_OUT = 256
IMMATERIAL = ("start", "out", "updates")  # Settings that a resumed run may change.


@dataclass(frozen=True)
class ReinforceConfig:
    """What to train and how.

    Attributes:
        start: Folder of the checkpoint to start from.
        out: Folder for the saved state, the log and the finished checkpoint.
        seed: Seed of the problems and the draws.
        updates: Number of batches of samples.
        groups: Number of problems per update.
        group_size: Number of samples of each problem.
        silent: Number of these that may write no reflection word. Those that do better than the
            others count as if the model had drawn them by itself; the rest teach nothing.
        steps: Number of optimizer steps per update, each on its share of the groups.
        price: Price of a token; a right answer earns 1.
        kl_price: Price of a nat of divergence from the start, per token.
        clip: GRPO's epsilon; see `policy_loss`.
        rate: Learning rate of AdamW, reached after ten updates.
        max_norm: A longer gradient is shortened to this.
        max_new_tokens: Number of tokens after which a sample is cut; it then earns nothing.
        batch_tokens: Largest number of tokens that are read together, including padding.
        updates_per_save: Number of updates between two saves of the state.
        updates_per_test: Number of updates between two tests on held-out problems.
        workers: Number of processes, each of which draws and learns from its share of the groups.
        threads: Number of CPU threads per worker.
    """

    start: Path
    out: Path
    seed: int = 0
    updates: int = 200
    groups: int = 32
    group_size: int = 8
    silent: int = 4
    steps: int = 2
    price: float = 0.003
    kl_price: float = 0.002
    clip: float = 0.2
    rate: float = 3e-4
    max_norm: float = 1.0
    max_new_tokens: int = 320
    batch_tokens: int = 4096
    updates_per_save: int = 5
    updates_per_test: int = 10
    workers: int = 1
    threads: int = 1


def reward_of(conduct: Conduct, price: float) -> float:
    """1 if the trace ended with the right answer, less the price of its tokens."""
    return float(conduct.finished and conduct.right) - price * conduct.tokens


def teaches(group: Sequence[Conduct]) -> bool:
    """Whether a group is learnt from: one of its traces is right."""
    return any(conduct.right for conduct in group)


class Reinforcement:
    """One worker's part of a run."""

    def __init__(self, config: ReinforceConfig, rank: int = 0):
        if not 0 <= config.silent < config.group_size:
            raise ValueError(f"silent={config.silent}: expected 0 to {config.group_size - 1}")
        self.config, self.rank = config, rank
        torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(config.start)
        self.pad = token_id(END_OF_TEXT, self.tokenizer)
        self.banned = variants(REFLECTING, self.tokenizer)
        self.model = Qwen2ForCausalLM.from_pretrained(
            config.start, dtype=torch.float32, attn_implementation="eager"
        )
        self.begun = deepcopy(self.model).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.rate, weight_decay=0.0, betas=(0.9, 0.95)
        )

    def draw(
        self, exercises: Sequence[Exercise], copies: int, name: str, silent: int = 0
    ) -> tuple[list[list[int]], list[Sample], list[Conduct]]:
        """This worker's samples: its prompts, one per sample, the samples, and what they did."""
        seed = Random(f"{name}/{self.config.seed}/{self.rank}").getrandbits(63)
        prompts = [encode(prompt_of(e.question, self.tokenizer), self.tokenizer) for e in exercises]
        samples = sample(
            prompts,
            self.model,
            torch.Generator().manual_seed(seed),
            copies,
            self.config.max_new_tokens,
            banned=self.banned if silent else (),
            think_end=token_id(THINK_END, self.tokenizer),
            free=copies - silent,
        )
        repeated = [i for i in range(len(exercises)) for _ in range(copies)]
        conducts = read_conduct([exercises[i] for i in repeated], samples, self.tokenizer)
        return [prompts[i] for i in repeated], samples, conducts

    def update(self, index: int) -> dict[str, float]:
        """Draw samples, learn from them, and return the counts of what they did."""
        config, size = self.config, self.config.group_size
        rng = Random(f"reinforce/{config.seed}/{index}")
        exercises = [draw_exercise(rng, "train") for _ in range(config.groups)]
        mine = exercises[self.rank :: config.workers]
        prompts, samples, conducts = self.draw(mine, size, f"draw/{index}", config.silent)
        free = [i for i in range(len(samples)) if i % size < size - config.silent]
        rewards = torch.tensor([reward_of(c, config.price) for c in conducts]).view(-1, size)
        advantages = group_advantages(rewards).flatten().tolist()
        counted = {*free, *(i for i, advantage in enumerate(advantages) if advantage > 0)}
        counts = count([conducts[i] for i in free])
        counts |= {"reward": float(rewards.sum()), "learned": 0.0, "kl": 0.0}
        groups = [range(i, i + size) for i in range(0, len(samples), size)]
        groups = [group for group in groups if teaches([conducts[i] for i in group])]
        for group in self.optimizer.param_groups:
            group["lr"] = config.rate * min(1.0, (index + 1) / 10)
        for step in range(config.steps):
            chosen = [i for group in groups[step :: config.steps] for i in group if i in counted]
            rows = cut_rows(
                [prompts[i] for i in chosen],
                [samples[i] for i in chosen],
                [advantages[i] for i in chosen],
                config.batch_tokens,
                self.pad,
            )
            counts["learned"] += sum(float(part.written.sum()) for part in rows)
            counts["kl"] += self.learn(rows)
        return self.total(counts)

    def learn(self, rows: Sequence[Rows]) -> float:
        """One optimizer step, if any worker has rows; returns the sum of the KL estimates."""
        tokens = self.total({"n": sum((float(part.written.sum()) for part in rows), 0.0)})["n"]
        if not tokens:
            return 0.0
        divergence, parameters = 0.0, list(self.model.parameters())
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        for part in rows:
            with torch.no_grad():
                start = log_probs_of(self.begun, part.ids)
            new = log_probs_of(self.model, part.ids)
            args = new, part.drawn, start, part.advantages, part.written
            loss = policy_loss(*args, self.config.clip, self.config.kl_price) / tokens
            loss.backward()
            kl = kl_estimate(new.detach(), start)
            divergence += float(kl[part.written].sum())
        if self.config.workers > 1:
            grads = [p.grad for p in parameters if p.grad is not None]
            flat = torch.nn.utils.parameters_to_vector(grads)
            dist.all_reduce(flat)
            torch.nn.utils.vector_to_parameters(flat, grads)
        torch.nn.utils.clip_grad_norm_(parameters, self.config.max_norm)
        self.optimizer.step()
        return divergence

    def test(self, index: int) -> dict[str, float]:
        """What the model does on held-out problems, whose products no update draws."""
        rng = Random(f"held out/{self.config.seed}")
        exercises = [draw_exercise(rng, "validation") for _ in range(HELD_OUT)]
        mine = exercises[self.rank :: self.config.workers]
        return self.total(count(self.draw(mine, 1, f"test/{index}")[2]))

    def total(self, counts: dict[str, float]) -> dict[str, float]:
        """The sum of each count over the workers."""
        if self.config.workers == 1:
            return counts
        values = torch.tensor(list(counts.values()), dtype=torch.float64)
        dist.all_reduce(values)
        return dict(zip(counts, values.tolist(), strict=True))


def run(config: ReinforceConfig, rank: int = 0) -> None:
    """Train until all updates are done, starting from the saved state if any, and export."""
    config.out.mkdir(parents=True, exist_ok=True)
    work = Reinforcement(config, rank)
    optimizers = {"adamw": work.optimizer}
    state, log = config.out / STATE_FILE, config.out / LOG_FILE
    settings = settings_of(config, *IMMATERIAL)
    progress = load_state(state, settings, work.model, optimizers)
    if config.workers > 1:
        dist.barrier()
    if rank == 0:
        trim_log(log, progress.block)
    while progress.block < config.updates:
        started, index = process_time(), progress.block
        entry: dict[str, Any] = {"update": index}
        if index % config.updates_per_test == 0:
            entry["held_out"] = work.test(index)
        entry |= work.update(index)
        progress = Progress(
            index + 1, progress.step + config.steps, progress.tokens + int(entry["tokens"])
        )
        entry |= work.total({"cpu_seconds": process_time() - started})
        if rank == 0:
            with open(log, "a") as file:
                file.write(json.dumps(entry) + "\n")
            if progress.block % config.updates_per_save == 0 or progress.block == config.updates:
                save_state(state, settings, progress, work.model, optimizers)
    if rank == 0:
        export(work.model, work.tokenizer, config.out / "checkpoint")
        write_summary(config)


def write_summary(config: ReinforceConfig) -> None:
    """Write the settings and the log of a finished run beside its checkpoint."""
    lines = (config.out / LOG_FILE).read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    summary = {
        "settings": {"model": "pocket-rl", **json.loads(settings_of(config, *IMMATERIAL))},
        "updates": len(entries),
        "cpu_seconds": round(sum(entry["cpu_seconds"] for entry in entries)),
        "curve": entries,
    }
    path = config.out / "checkpoint" / "training.json"
    path.write_text(json.dumps(summary, indent=1) + "\n")


def _work(rank: int, config: ReinforceConfig) -> None:
    meeting = f"file://{config.out.resolve()}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=config.workers)
    try:
        run(config, rank)
    finally:
        dist.destroy_process_group()


def main(config: ReinforceConfig) -> None:
    config.out.mkdir(parents=True, exist_ok=True)
    if config.workers == 1:
        run(config)
    else:
        (config.out / "meeting").unlink(missing_ok=True)
        spawn(_work, (config,), config.workers)


if __name__ == "__main__":
    main(tyro.cli(ReinforceConfig))
