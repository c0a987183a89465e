"""One engine in a process of its own, which runs what its parent's lines ask for.

vLLM changes threads, allocators and random states of its whole process, so engines that are
compared share none. `experiments.timings.engines` starts these processes and asks them in turn.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

CACHE = 2**29  # Bytes of vLLM's cache: 64 rows of the larger shape.
# What is done to the rows of a batch: the same to all, or all but the last of these in turn.
ALONE = ("Suppress", "LogitPenalty", "Steer", "Recycle consumed", "Recycle candidate", "Continue")
PLAIN, MIXED = "no intervention", "mixed"


def interventions(words: Any, d_model: int, layer: int) -> dict[str, Any]:
    """The interventions by name; all of them act at the same words."""
    import mi_lens

    vector = torch.randn(d_model, generator=torch.Generator().manual_seed(0))
    steer = mi_lens.Steer(
        vector, f"blocks.{layer}.hook_resid_post", alpha=0.1, at=words, inside_think=False
    )
    return {
        "Suppress": mi_lens.Suppress(words),
        "LogitPenalty": mi_lens.LogitPenalty(words, -2.0),
        "Steer": steer,
        "Recycle consumed": mi_lens.Recycle(layer, words, trigger="consumed"),
        "Recycle candidate": mi_lens.Recycle(layer, words),
        "Continue": mi_lens.Continue(["Wait"], reserve=1),
    }


def conditions(what: str, words: Any, d_model: int, layer: int) -> list[Any]:
    """The conditions that rows have in turn."""
    import mi_lens

    if what == PLAIN:
        return [mi_lens.Condition()]
    known = interventions(words, d_model, layer)
    names = [name for name in ALONE if name != "Continue"] if what == MIXED else [what]
    return [mi_lens.Condition((known[name],)) for name in names]


class OurEngine:
    """An engine of this package, or a model of one of the two classes in our own loop."""

    def __init__(self, engine: Any, d_model: int, settings: Mapping[str, Any]):
        from mi_lens.generation.plan import Plan

        self.plan = Plan(engine)  # As in a run: made once, as it reads every weight.
        self.settings = settings
        self.conditions = {
            what: conditions(what, settings["words"], d_model, settings["layer"])
            for what in (PLAIN, MIXED, *ALONE)
        }

    def texts(self, what: str, prompts: Sequence[str], tokens: int) -> Callable[[], list[int]]:
        """What generates once, and says how many tokens each text got."""
        import mi_lens
        from mi_lens.generation.generate import stream

        given = self.conditions[what]
        requests = [
            mi_lens.Request(
                prompt,
                given[row % len(given)],
                style=self.settings["style"],
                max_new_tokens=tokens,
            )
            for row, prompt in enumerate(prompts)
        ]

        def run() -> list[int]:
            done = stream(self.plan, requests, batch_size=len(requests))
            return [len(finished.trace) for finished in done]

        return run


class VLLM:
    """Plain vLLM, without this package: it encodes no prompt and ends texts at the same tokens."""

    def __init__(self, folder: str, settings: Mapping[str, Any], **options: Any):
        import vllm  # pyright: ignore[reportMissingImports]

        from mi_lens.models.loading import load_outline

        self.vllm, self.settings, self.model = vllm, settings, load_outline(folder)
        self.llm = vllm.LLM(
            folder,
            dtype="float32",
            max_model_len=self.model.cfg.n_ctx,
            kv_cache_memory_bytes=CACHE,
            **options,
        )

    def texts(self, what: str, prompts: Sequence[str], tokens: int) -> Callable[[], list[int]]:
        """What generates once, and says how many tokens each text got."""
        from mi_lens.generation.request import end_of_text_ids
        from mi_lens.problems.prompts import encode_prompt

        assert what == PLAIN, what
        ids = [
            encode_prompt(self.model.tokenizer, prompt, self.settings["style"])[1]
            for prompt in prompts
        ]
        sampling = self.vllm.SamplingParams(
            temperature=0,
            max_tokens=tokens,
            stop_token_ids=sorted(end_of_text_ids(self.model)),
            ignore_eos=True,
        )

        def run() -> list[int]:
            given = [{"prompt_token_ids": list(one)} for one in ids]
            outputs = self.llm.generate(given, sampling, use_tqdm=False)
            return [len(output.outputs[0].token_ids) for output in outputs]

        return run


def _ours(backend: str) -> Callable[..., OurEngine]:
    def make(folder: str, settings: Mapping[str, Any]) -> OurEngine:
        import mi_lens

        model = mi_lens.load(folder, backend=backend, dtype="float32", device="cpu")
        return OurEngine(model, model.cfg.d_model, settings)

    return make


def _engine(name: str, **options: Any) -> Callable[..., OurEngine]:
    def make(folder: str, settings: Mapping[str, Any]) -> OurEngine:
        import mi_lens

        given = dict(options)
        if name == "vllm":
            given["kv_cache_memory_bytes"] = CACHE
        if given.get("compiled"):
            given["compiled"] = [f"blocks.{settings['layer']}.hook_resid_post"]
        engine = mi_lens.load_engine(folder, name, dtype="float32", **given)
        return OurEngine(engine, engine.model.cfg.d_model, settings)

    return make


ENGINES: dict[str, Callable[..., Any]] = {
    "mi_lens, HookedTransformer": _ours("hooked"),
    "mi_lens, TransformerBridge": _ours("bridge"),
    "Hugging Face's generate": _engine("huggingface"),
    "vLLM alone": lambda folder, settings: VLLM(folder, settings, enforce_eager=True),
    "mi_lens on vLLM": _engine("vllm"),
    "vLLM alone, compiled": VLLM,
    "mi_lens on vLLM, compiled=[]": _engine("vllm", compiled=[]),
    "mi_lens on vLLM, compiled at a block": _engine("vllm", compiled=True),
}


class Child:
    """An engine's process, seen from its parent.

    Args:
        engine: The engine's name.
        folder: The checkpoint.
        settings: The prompts' style, the words and the layer at which interventions act.
    """

    def __init__(self, engine: str, folder: Path | str, settings: Mapping[str, Any]):
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_LOGGING_LEVEL": "ERROR",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.asked({"engine": engine, "folder": str(folder), "settings": dict(settings)})

    def asked(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """The answer of the process."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(question), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process of {question} ended with {self.process.wait()}")
        return json.loads(answer)

    def close(self) -> None:
        """Ends the process: no question is left."""
        self.process.communicate()


def main() -> None:
    """Answers questions, a line of JSON each: the first makes an engine, others run it."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # What vLLM prints is no answer.
    first = json.loads(sys.stdin.readline())
    torch.set_num_threads(1)
    start = time.perf_counter()
    engine = ENGINES[first["engine"]](first["folder"], first["settings"])
    ready = {"seconds": time.perf_counter() - start, "threads": torch.get_num_threads()}
    print(json.dumps(ready), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        run = engine.texts(asked["what"], asked["prompts"], asked["tokens"])
        start = time.process_time()
        lengths = run()
        answer = {"cpu_seconds": time.process_time() - start, "tokens": sum(lengths)}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
