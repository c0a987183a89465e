"""Measure pocket-rl against its base, on held-out problems.

    python -m mi_lens.models.pocket.training.evaluate_rl BASE RL

The numbers go to `evaluation.json` in each checkpoint's folder, from which
`mi_lens.models.pocket.training.card_rl` writes the cards. All problems come from the test split,
whose products occur in no training text and in no update of the reinforcement. Each problem has one
trace drawn at temperature 1, which is how the model was trained, and one greedy trace.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import tyro
from transformers import AutoModelForCausalLM, AutoTokenizer

from mi_lens.models.pocket.training.behaviour import Conduct, read_conduct
from mi_lens.models.pocket.training.decoding import variants
from mi_lens.models.pocket.training.reflection import Numbers, describe_conduct, paired
from mi_lens.models.pocket.training.sampling import Sample, sample
from mi_lens.models.pocket.training.tokenization import THINK_END, encode, prompt_of, token_id
from mi_lens.models.pocket.training.wording import REFLECTING
from mi_lens.problems.arithmetic import Exercise, exercises

BATCH = 250


@dataclass(frozen=True)
class ComparisonConfig:
    """What to measure.

    Attributes:
        base: Folder of the checkpoint before reinforcement.
        reinforced: Folder of the checkpoint after it.
        problems: Number of test problems, from the start of the stream.
        seed: Selects the stream of problems and the draws.
        threads: Number of CPU threads.
    """

    base: tyro.conf.Positional[Path]
    reinforced: tyro.conf.Positional[Path]
    problems: int = 500
    seed: int = 0
    threads: int = 1


class HeldOut:
    """A checkpoint that continues test problems."""

    def __init__(self, folder: Path, config: ComparisonConfig):
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.config = config
        self.exercises = list(islice(exercises("test", config.seed), config.problems))
        self.prompts = [
            encode(prompt_of(e.question, self.tokenizer), self.tokenizer) for e in self.exercises
        ]
        self.banned = variants(REFLECTING, self.tokenizer)

    def continue_all(
        self, prompts: Sequence[list[int]], temperature: float, ban: bool = False
    ) -> list[Sample]:
        """One sample of each prompt; with `ban`, none uses a reflection word while it thinks."""
        samples: list[Sample] = []
        for start in range(0, len(prompts), BATCH):
            samples += sample(
                prompts[start : start + BATCH],
                self.model,
                torch.Generator().manual_seed(self.config.seed * 1000 + start),
                max_new_tokens=512,
                temperature=temperature,
                banned=self.banned if ban else (),
                think_end=token_id(THINK_END, self.tokenizer),
            )
        return samples

    def read(self, chosen: Sequence[Exercise], samples: Sequence[Sample]) -> list[Conduct]:
        return read_conduct(chosen, samples, self.tokenizer)

    def before_reflection(self, conduct: Conduct, ids: list[int]) -> list[int]:
        """The tokens of a trace before its first reflection."""
        kept, text = "\n\n".join(conduct.thoughts[: conduct.reflections[0]]) + "\n\n", ""
        for place, token in enumerate(ids):
            if len(text) >= len(kept):
                return ids[:place]
            text += str(self.tokenizer.decode([token]))
        return ids

    def without_reflection(
        self, conducts: Sequence[Conduct], samples: Sequence[Sample], temperature: float
    ) -> Numbers:
        """What it costs to cut traces before their first reflection and to forbid any other.

        First the share of right answers of the traces as they are, second without reflection, for
        traces whose first value was right and for those whose first value was wrong. Traces that
        reflect before they state a value are left out.
        """
        result = {}
        for name, right in (("value_right", True), ("value_wrong", False)):
            chosen = [
                i
                for i, c in enumerate(conducts)
                if c.first_value is not None
                and c.value_right == right
                and min(c.reflections, default=0) > 1
            ]
            if not chosen:
                result[name] = {"traces": 0}
                continue
            starts = [self.before_reflection(conducts[i], samples[i].ids) for i in chosen]
            prompts = [self.prompts[i] + start for i, start in zip(chosen, starts, strict=True)]
            rest = self.continue_all(prompts, temperature, ban=True)
            whole = [
                Sample(start + r.ids, [], [0.0] * len(start + r.ids), r.finished)
                for start, r in zip(starts, rest, strict=True)
            ]
            after = self.read([self.exercises[i] for i in chosen], whole)
            saved = [conducts[i].tokens - c.tokens for i, c in zip(chosen, after, strict=True)]
            result[name] = {
                "traces": len(chosen),
                **paired([conducts[i].right for i in chosen], [c.right for c in after]),
                "tokens_saved": round(sum(saved) / len(saved), 1),
            }
        return result

    def measure(self, temperature: float) -> tuple[Numbers, list[Conduct]]:
        samples = self.continue_all(self.prompts, temperature)
        conducts = self.read(self.exercises, samples)
        silent = self.read(self.exercises, self.continue_all(self.prompts, temperature, ban=True))
        numbers = describe_conduct(conducts) | {
            "cut_before_reflection": self.without_reflection(conducts, samples, temperature),
            "reflection_banned": paired([c.right for c in conducts], [c.right for c in silent]),
        }
        return numbers, conducts


def compare(config: ComparisonConfig) -> dict[str, Numbers]:
    """Measure both checkpoints, and their difference in accuracy by problem."""
    torch.set_num_threads(config.threads)
    found: dict[str, Numbers] = {}
    traces: dict[str, dict[str, list[Conduct]]] = {}
    for name, folder in (("pocket-rl-base", config.base), ("pocket-rl", config.reinforced)):
        held_out = HeldOut(folder, config)
        found[name] = {
            "problems": config.problems,
            "seed": config.seed,
            "parameters": held_out.model.num_parameters(),
        }
        traces[name] = {}
        for way, temperature in (("sampled", 1.0), ("greedy", 0.0)):
            found[name][way], traces[name][way] = held_out.measure(temperature)
        found[name]["examples"] = _examples(traces[name]["greedy"])
    for way in ("sampled", "greedy"):
        before, after = ([c.right for c in traces[name][way]] for name in found)
        found["pocket-rl"][way]["against_base"] = paired(after, before)
    return found


def _examples(conducts: Sequence[Conduct]) -> list[dict[str, str]]:
    """The first traces that correct a wrong value, confirm a right one, and do not reflect."""
    kinds = (
        [c for c in conducts if c.right and c.reflects and not c.value_right],
        [c for c in conducts if c.right and c.reflects and c.value_right],
        [c for c in conducts if c.right and not c.reflects],
    )
    return [
        {"question": c.exercise.question, "reply": c.text, "answer": str(c.exercise.answer)}
        for kind in kinds
        for c in kind[:1]
    ]


def main(config: ComparisonConfig) -> None:
    found = compare(config)
    for folder, numbers in zip((config.base, config.reinforced), found.values(), strict=True):
        path = folder / "evaluation.json"
        path.write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(found["pocket-rl"]["sampled"]["against_base"], indent=1))


if __name__ == "__main__":
    main(tyro.cli(ComparisonConfig))
