"""What runs and sweeps both set: problems, prompts, sampling, and what runs the model where."""

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mi_lens.common.checked_types import require_at_least, require_types
from mi_lens.problems.prompts import PromptStyle
from mi_lens.problems.think_kinds import AUTO, require_think_kind

if TYPE_CHECKING:  # torch is loaded when a run begins, not for --help
    from mi_lens.generation.engines.protocol import Engine
    from mi_lens.interventions.sampling import Sampling
    from mi_lens.problems.problem import Problem

OWN = "transformer_lens"  # The engine that is this package's loop.
SETTINGS_OF_ENGINES = ("dtype", "device", "think")  # No options, since they have a place.


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Settings of runs and sweeps: problems, prompts, sampling, and where the model runs.

    Attributes:
        problems: "pocket"; "grade-school", 20 word problems of our own; a benchmark of the hub
            (gsm8k, math500, math-train, aime24, aime25, livecodebench, livecodebench-v5); or a file
            of problems (JSON lines, CSV or Parquet).
        limit: Number of problems; None takes all problems of a file, or 100 pocket problems.
        split: Split of the pocket task or the benchmark (math-train has only train).
        question_column: Column of the questions; None tries the names that benchmarks use.
        answer_column: Column of the gold answers; None tries the names that benchmarks use.
        style: Prompt style: the chat template, without or with its thinking switched on or off; the
            raw question (paper 1); or SEAL's instruction.
        max_new_tokens: Maximum number of generated tokens per trace.
        temperature: Sampling temperature; 0 is greedy.
        top_p: Keep the fewest likeliest tokens whose total probability reaches this.
        top_k: Keep this many likeliest tokens; None keeps all.
        min_p: Keep tokens at least this many times as likely as the likeliest.
        stop: Texts that end a generation as soon as they are written.
        backend: HookedTransformer or TransformerBridge; auto takes the first that has the model.
        dtype: float32, bfloat16, float16 or float64; None takes float32 on a CPU, and the
            checkpoint's dtype elsewhere and for quantised weights (`mi_lens.load`).
        device: cpu or cuda; None takes cuda if there is one.
        think: How the model marks its thinking: think, gpt-oss, magistral, open-thoughts or none;
            auto finds it from the tokenizer and its chat template.
        engine: What runs the model while it writes: this package's loop, Hugging Face's generate
            (greedy baselines only), or vLLM.
        engine_options: Options of another engine than this package's loop, each as name=value with
            a value as in Python, such as max_num_seqs=64 or attn_implementation='eager'
            (`mi_lens.load_engine`).
    """

    problems: str = "pocket"
    limit: int | None = None
    split: Literal["train", "validation", "test"] = "test"
    question_column: str | None = None
    answer_column: str | None = None
    style: PromptStyle = "chat"
    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    min_p: float = 0.0
    stop: tuple[str, ...] = ()
    backend: Literal["auto", "hooked", "bridge"] = "auto"
    dtype: str | None = None
    device: str | None = None
    think: str = AUTO
    engine: Literal["transformer_lens", "huggingface", "vllm"] = "transformer_lens"
    engine_options: tuple[str, ...] = ()

    def __post_init__(self):
        require_types(self)
        require_think_kind(self.think)
        require_at_least(self, limit=1, max_new_tokens=1, top_k=1)
        options = parse_options(self.engine_options)
        if options and self.engine == OWN:
            raise ValueError(
                f"engine_options={self.engine_options}: engine {OWN!r} has none; leave them out, "
                "or choose another engine"
            )
        if self.backend != "auto" and self.engine != OWN:
            raise ValueError(
                f"backend={self.backend!r} with engine={self.engine!r}: a backend is of engine "
                f"{OWN!r}; leave it out"
            )

    def sampling(self) -> "Sampling":
        """How tokens are drawn."""
        from mi_lens.interventions.sampling import Sampling

        return Sampling(self.temperature, self.top_p, self.top_k, self.min_p)

    def load_problems(self, seed: int = 0) -> "list[Problem]":
        """Loads the problems; `seed` is used by the pocket task only."""
        from mi_lens.problems.loading import load_problems

        given = {"question": self.question_column, "answer": self.answer_column}
        columns = {field: column for field, column in given.items() if column is not None}
        return load_problems(
            self.problems, limit=self.limit, split=self.split, seed=seed, columns=columns
        )

    def load_model(self, name: str) -> Any:
        """Loads a model by name, as `mi_lens.load` does."""
        from mi_lens.models.loading import load

        return load(
            name, backend=self.backend, dtype=self.dtype, device=self.device, think=self.think
        )

    def load_engine(self, name: str) -> "Engine":
        """Loads the engine with a model by name, as `mi_lens.load_engine` does."""
        from mi_lens.generation.engines.lookup import load_engine

        options = parse_options(self.engine_options)
        if self.engine == OWN:
            options = {"backend": self.backend}
        return load_engine(
            name,
            self.engine,
            dtype=self.dtype,
            device=self.device,
            think=self.think,
            **options,
        )

    def load_tokenizer(self, name: str) -> Any:
        """Loads the tokenizer of a model by name, as `load_model` gives it to the model."""
        from mi_lens.models.loading import load_tokenizer

        return load_tokenizer(name, self.think)


def parse_options(texts: Sequence[str]) -> dict[str, Any]:
    """Options of an engine by name, from texts such as "max_num_seqs=64".

    Raises:
        ValueError: If a text is no name with a literal value, or the name is given twice or is a
            setting of its own.
    """
    options: dict[str, Any] = {}
    for text in texts:
        name, _, value = text.partition("=")
        name = name.strip()
        try:
            if not name.isidentifier():
                raise ValueError
            literal = ast.literal_eval(value.strip())
        except (SyntaxError, ValueError):
            raise ValueError(
                f"engine_options: {text!r}; expected name=value with a value as in Python, such as "
                "max_num_seqs=64 or attn_implementation='eager'"
            ) from None
        if name in options or name in SETTINGS_OF_ENGINES:
            twice = "is there already" if name in options else f"has the setting {name} of its own"
            raise ValueError(f"engine_options: {text!r}: {name!r} {twice}; leave it out here")
        options[name] = literal
    return options
