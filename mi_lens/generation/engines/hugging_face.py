"""Greedy baselines by Hugging Face's own `generate`, without any hook."""

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from mi_lens.generation.jobs import Job
from mi_lens.generation.request import Request, end_of_text_ids
from mi_lens.models.checkpoint_files import require_same_weights
from mi_lens.models.fingerprint import checkpoint_fingerprint
from mi_lens.models.loading import load_outline, opened
from mi_lens.models.padding import left_pad
from mi_lens.models.placement import default_dtype, parse_device, parse_dtype
from mi_lens.models.quantization import description_of, quantization_of, require_quantizer
from mi_lens.problems.think_kinds import AUTO


class HuggingFaceEngine:
    """An `Engine` for greedy requests without interventions, prefix or stop texts.

    Of the checkpoint's generation config only the tokens that end a text count: a condition without
    a repetition penalty, for example, has none here either.

    Args:
        checkpoint: A name as `mi_lens.load` takes it. The weights of a GGUF file are dequantised.
        dtype: See `mi_lens.load`. In float64 every row is decoded by itself, whatever the
            `batch_size`, because Hugging Face's masks overflow at padding.
        device: See `mi_lens.load`.
        think: See `mi_lens.load`.
        **from_pretrained: Passed on to Hugging Face's from_pretrained, for example
            attn_implementation="eager"; they are part of the engine's name.

    Raises:
        ValueError, FileNotFoundError, ImportError, OSError: For the reasons of `mi_lens.load`.
    """

    own = False

    def __init__(
        self,
        checkpoint: str | Path,
        *,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        think: str = AUTO,
        **from_pretrained: Any,
    ):
        from transformers import GenerationConfig

        self.model = load_outline(checkpoint, think=think)
        found = opened(checkpoint)
        settings = found.settings()
        torch_device = parse_device(device)
        torch_dtype = default_dtype(settings, torch_device) if dtype is None else parse_dtype(dtype)
        method = quantization_of(found.config_file, settings)
        placed = {}
        if method:
            require_quantizer(found.config_file, settings, method, torch_device)
            placed = {"device_map": {"": torch_device}}
        found.require_weights()
        hf_model = _read(found, torch_dtype, **placed, **from_pretrained)
        quantization = description_of(hf_model, method) if method else None
        hf_model.generation_config = GenerationConfig()
        self._hf_model: Any = hf_model if placed else hf_model.to(torch_device)
        self.dtype, self.device = str(torch_dtype).removeprefix("torch."), torch_device.type
        self.name = f"transformers {version('transformers')} generate, {torch_dtype}"
        self.name += f", {method} weights" if method else ""
        self.name += "".join(f", {name}={value!r}" for name, value in from_pretrained.items())
        self.fingerprint = checkpoint_fingerprint(
            found.path, self.model.tokenizer, self.dtype, quantization
        )

    @staticmethod
    def refusal(request: Request) -> str | None:
        """See `Engine.refusal`."""
        if request.condition.interventions:
            return "interventions, which need hooks"
        if request.prefix:
            return "a prefix"
        if request.condition.sampling.temperature > 0:
            return "sampling, whose random numbers would not be the request's own"
        return "stop texts" if request.stop else None

    def run(
        self, jobs: Sequence[Job], requests: Sequence[Request], batch_size: int
    ) -> Iterator[Job]:
        """See `Engine.run`."""
        if self._hf_model is None:
            raise RuntimeError(f"the engine {self.name} was closed; load it again")
        ends = frozenset(end_of_text_ids(self.model))
        rows = 1 if self.dtype == "float64" else batch_size
        for start in range(0, len(jobs), rows):
            for batch in _within_context(jobs[start : start + rows]):
                self._generate(batch, ends)
                yield from batch

    def _generate(self, batch: Sequence[Job], ends: frozenset[int]) -> None:
        """Runs jobs to their ends, together."""
        start = perf_counter()
        prompts = [job.row.prompt_ids for job in batch]
        tokens, mask = left_pad(prompts, device=self._hf_model.device)
        with torch.inference_mode():
            sequences = self._hf_model.generate(
                tokens,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=max(map(_most_new, batch)),
                eos_token_id=sorted(ends),
                pad_token_id=min(ends),
            )
        written = sequences[:, tokens.shape[1] :].tolist()
        share = (perf_counter() - start) / len(batch)
        for job, ids in zip(batch, written, strict=True):
            job.seconds = share
            for token in ids:
                if job.stop_reason is None:
                    job.accept(token, ends)

    def close(self) -> None:
        """Frees the weights."""
        self._hf_model = None


def _read(found: Any, dtype: torch.dtype, **settings: Any) -> Any:
    """Hugging Face's model of a checkpoint, read in a dtype as Hugging Face does."""
    from transformers import AutoModelForCausalLM

    if found.path.is_file():
        return found.read(dtype, **settings).eval()
    load: Any = AutoModelForCausalLM.from_pretrained  # its annotation omits the loading info
    model, report = load(
        found.path, dtype=dtype, trust_remote_code=False, output_loading_info=True, **settings
    )
    require_same_weights(found.path, report)
    return model.eval()


def _most_new(job: Job) -> int:
    return min(job.row.limit, job.context - len(job.row.prompt_ids))


def _within_context(jobs: Sequence[Job]) -> list[list[Job]]:
    """The jobs as one batch; each alone if one would run over its context while others go on."""
    longest = max(len(job.row.prompt_ids) for job in jobs)
    together = longest + max(map(_most_new, jobs)) <= jobs[0].context
    return [list(jobs)] if together else [[job] for job in jobs]
