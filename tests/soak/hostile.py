"""Values that are certainly invalid: of options and of a sweep's fields; and draws of one."""

import random
import re
from pathlib import Path
from typing import Any

from tests.soak.commands import SPEC, WRITERS
from tests.soak.hostile_files import (
    CHECKPOINTS,
    PROBLEM_FILES,
    VECTOR_FILES,
    BadValue,
    write_spec,
)


def _parts(value: Any) -> tuple[str, ...]:
    """What an error may name of a value: words and numbers in it, or a setting of its call."""
    words = re.findall(r"[\w.\-]+", str(value))
    said = tuple(word for word in words if len(word) > 2 or word.isdigit())
    return (*said, "vector=", "vector has") if "Steer(" in str(value) else said


# Of the runs and, with underscores, of a sweep's spec; a list is written in full there.
SHARED: dict[str, list[Any]] = {
    "limit": [0, -1, "many", 1.5],
    "split": ["dev", ""],
    "question-column": ["answer_text", ""],
    "answer-column": ["gold_answer"],
    "style": ["chatty", ""],
    "max-new-tokens": [0, -7, "nan", 1e9],
    "temperature": [-1.0, "nan", "inf", "hot"],
    "top-p": [0.0, 1.5, -0.5, "nan"],
    "top-k": [0, -3, 2.5],
    "min-p": [-0.1, 1.01, "nan"],
    "backend": ["jax", ""],
    "dtype": ["int8", "float16", "double", ""],
    "device": ["cuda:77", "tpu", "meta", ""],
    "problems": ["missing.jsonl", "gsm9k", "", ".", "model", "vector.safetensors", "\x00"],
    "batch-size": [0, -2, "x"],
}
STEERS = [
    "Steer('missing.safetensors')",
    "Steer('problems.jsonl')",
    "Steer('model/model.safetensors')",
    "Steer('vector.safetensors', alpha=float('nan'))",
    "Steer('vector.safetensors', 'blocks.7.hook_resid_post')",
    "Steer('vector.safetensors', 'blocks.1.hook_resid_pots')",
    "Steer('vector.safetensors', 'blocks.1.attn.hook_q')",
    "Steer('vector.safetensors', at='everywhere')",
    "Steer('vector.safetensors', variant='multiply')",
    "Steer('vector.safetensors', strength=2)",
    "Steer([1.0, 2.0], 'blocks.1.hook_resid_post')",
    "Steer([], 'blocks.1.hook_resid_post')",
]
INTERVENTIONS = [
    *STEERS,
    "Suppress(['Wait']",
    "Suppress()",
    "Suppress([])",
    "Suppress(7)",
    "Suppress(['Wait'], nonsense=1)",
    "Suppres(['Wait'])",
    "Recycle(99, ['Wait'])",
    "Recycle(-9, ['Wait'])",
    "Recycle(1.5, ['Wait'])",
    "Recycle('blocks.1', ['Wait'])",
    "__import__('os').getcwd()",
    "os:getcwd()",
    "missing_module:Thing()",
    "lambda: 0",
    "",
    "()",
    "1 + 1",
    "Suppress(['\ud800'])",
]
BY_COMMAND: dict[str, dict[str, list[Any]]] = {
    "generate": {"seed": [-1, "x", 1.5], "intervene": INTERVENTIONS},
    "analyze": {
        "seed": [-1, "x"],
        "intervene": INTERVENTIONS,
        "hook-names": [
            "blocks.9.hook_resid_post",
            "blocks.0.hook_mlp",
            "blocks.*.hook_nothing",
            "",
        ],
        "site": ["answer_first", ""],
        "sigma": [0.0, -1.0, "nan", "inf"],
        "peaks": ["IQR(tau=nan)", "IQR(", "TopK(-1)", "TopK(0)", "MAD(k='x')", "Best()", ""],
        "mismatched": [-1, "all"],
        "readout": ["loudest"],
        "template": ["maybe"],
    },
    "evaluate": {
        "seed": [-1, "x"],
        "intervene": INTERVENTIONS,
        "conditions": [f"bad={text}" for text in INTERVENTIONS],
        "seeds": ["x", 1.5],
    },
    "sweep": {},
}
MODELS = [
    "missing/",
    "./missing",
    "nobody/nothing",
    "pocket-reasonor",
    "problems.jsonl",
    "\x00",
]
FIELDS: dict[str, list[Any]] = {
    **{name.replace("-", "_"): values for name, values in SHARED.items()},
    "models": [[], ["model", "model"], [7], None, *([name] for name in MODELS)],
    "conditions": [[], ["baseline", "baseline"], 7, None, *([f"bad={t}"] for t in INTERVENTIONS)],
    "grid": [7, "alpha", {"beta": [1]}, {"alpha": []}, {"alpha": ["x"]}, {"alpha": [3.0, 3.0]}],
    "seeds": [[], [0, 0], ["x"], [1.5], [True]],
    "unit": [0, -1, "x", None, 1.5],
    "colour": ["red"],
    "stop": [[7], {"a": 1}],
}


def _option(option: str, value: Any) -> BadValue:
    def apply(folder: Path, command: list[str]) -> list[str]:
        return [*command, f"--{option}={value}"]

    named = (option, option.replace("-", "_"), repr(str(value)), *_parts(value))
    return BadValue(f"--{option}={value!r}", apply, named)


def _field(name: str, value: Any) -> BadValue:
    def apply(folder: Path, command: list[str]) -> list[str]:
        write_spec(folder, {**SPEC, name: value})
        return command

    named = (name, name.replace("_", "-"), repr(value), *_parts(value))
    return BadValue(f"{name}: {value!r}", apply, named)


def values_for(name: str) -> dict[str, list[BadValue]]:
    """The hostile values for a command, by what they are values of."""
    values = {"problems": PROBLEM_FILES, "vectors": VECTOR_FILES, "checkpoints": CHECKPOINTS}
    if name == "sweep":
        return {**values, "fields": [_field(key, v) for key, all_ in FIELDS.items() for v in all_]}
    options = {**SHARED, "model": MODELS, **BY_COMMAND[name]}
    if name == "analyze":
        options = {**options, "out": ["problems.jsonl", "model", "/proc/nothing"]}
    return {**values, "options": [_option(key, v) for key, all_ in options.items() for v in all_]}


VALUES = {name: values_for(name) for name in WRITERS}


def draw(name: str, dice: random.Random) -> BadValue:
    """A hostile value for a command; half of them are of options or fields."""
    kinds = VALUES[name]
    options = "fields" if name == "sweep" else "options"
    files = [value for kind, values in kinds.items() if kind != options for value in values]
    return dice.choice(dice.choice([kinds[options], files]))
