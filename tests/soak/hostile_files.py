"""Files that are certainly invalid: of problems, of steering vectors, of a checkpoint."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.soak.bench import PROBLEMS, save_vector
from tests.soak.commands import SPEC

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 100\n"


@dataclass(frozen=True)
class BadValue:
    """One hostile value.

    Attributes:
        what: What it is, for people.
        apply: Changes the inputs in a folder, and returns the command for a good command.
        named: The error must hold one of these.
        of_checkpoint: Whether it is of the checkpoint, which a finished sweep does not read again.
    """

    what: str
    apply: Callable[[Path, list[str]], list[str]]
    named: tuple[str, ...]
    of_checkpoint: bool = False


def write_spec(folder: Path, spec: Any) -> None:
    text = json.dumps(spec)  # JSON is YAML, and can say a lone surrogate
    (folder / "spec.yaml").write_text(text, encoding="utf-8")


def _file(what: str, path: str, change: Callable[[Path], object], *named: str) -> BadValue:
    def apply(folder: Path, command: list[str]) -> list[str]:
        change(folder / path)
        return command

    named = named or (Path(path).name,)
    return BadValue(f"{path}: {what}", apply, named, path.startswith("model/"))


def _rows(what: str, rows: list[Any], *named: str) -> BadValue:
    text = "".join(json.dumps(row) + "\n" for row in rows)  # json writes NaN, as Python's does
    return _file(what, "problems.jsonl", lambda path: path.write_text(text), *named)


def _one(**fields: Any) -> list[dict[str, Any]]:
    return [PROBLEMS[0], {**PROBLEMS[1], **fields}, PROBLEMS[2]]


def _csv(what: str, text: bytes) -> BadValue:
    def apply(folder: Path, command: list[str]) -> list[str]:
        (folder / "problems.csv").write_bytes(text)
        if command[0] != "sweep":
            return [*command, "--problems=problems.csv"]
        write_spec(folder, SPEC | {"problems": "problems.csv"})
        return command

    return BadValue(f"problems.csv: {what}", apply, ("problems.csv",))


def _config(name: str, value: Any) -> BadValue:
    def change(path: Path) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))

    return _file(f"{name}={value!r}", "model/config.json", change, "model", name)


def _weights(what: str, change: Callable[[dict[str, torch.Tensor]], object]) -> BadValue:
    def change_file(path: Path) -> None:
        weights = load_file(path)
        change(weights)
        save_file(weights, path, {"format": "pt"})

    return _file(what, "model/model.safetensors", change_file, "model")


PROBLEM_FILES = [
    _rows("gold is NaN", _one(answer=float("nan")), "answer"),
    _rows("gold is a list", _one(answer=[1, 2]), "answer"),
    _rows("gold is null", _one(answer=None), "answer"),
    _rows("gold is empty", _one(answer=" "), "answer"),
    _rows("gold is an object", _one(answer={"value": 1}), "answer"),
    _rows("question is empty", _one(question=""), "question"),
    _rows("question is a list", _one(question=["a"]), "question"),
    _rows("question is half a character", _one(question="What is \ud800?"), "question"),
    _rows("gold is half a character", _one(answer="\udfff"), "answer"),
    _rows("ids are equal", _one(id="p0"), "p0"),
    _rows("no question", [{"id": "a", "answer": "1"}], "question"),
    _rows("no gold", [{"id": "a", "question": "1?"}], "answer"),
    _rows("rows are lists", [["a", "b"]]),
    _rows("rows are numbers", [1, 2]),
    _rows("question is longer than the context", _one(question="1 + " * 2000), "p1", "context"),
    _file("empty", "problems.jsonl", lambda path: path.write_bytes(b"")),
    _file("blank", "problems.jsonl", lambda path: path.write_bytes(b"\n \n")),
    _file("torn", "problems.jsonl", lambda path: path.write_bytes(path.read_bytes()[:-30])),
    _file("UTF-16", "problems.jsonl", lambda p: p.write_text(p.read_text(), encoding="utf-16")),
    _file("Latin-1", "problems.jsonl", lambda path: path.write_bytes(b'{"question": "\xe9?"}\n')),
    _file("a picture", "problems.jsonl", lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n\x00")),
    _file("missing", "problems.jsonl", lambda path: path.unlink()),
    _csv("empty", b""),
    _csv("a header only", b"question,answer\n"),
    _csv("no gold", b"question\n1?\n"),
    _csv("Latin-1", b"question,answer\n\xe9?,1\n"),
    _csv("a short row", b"question,answer\n1?\n"),
    _csv("a long field without gold", b"question,answer\n" + b"1" * 200_000 + b",\n"),
]
VECTOR_FILES = [
    _file("empty", "vector.safetensors", lambda path: path.write_bytes(b"")),
    _file("garbage", "vector.safetensors", lambda path: path.write_bytes(bytes(range(256)) * 4)),
    _file("torn", "vector.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-9])),
    _file("a pointer", "vector.safetensors", lambda path: path.write_bytes(POINTER)),
    _file("missing", "vector.safetensors", lambda path: path.unlink()),
    _file("NaN", "vector.safetensors", lambda p: save_vector(p, [float("nan")] * 32), "vector"),
    _file("infinite", "vector.safetensors", lambda p: save_vector(p, [1e39] * 32), "vector"),
    _file("zero", "vector.safetensors", lambda path: save_vector(path, [0.0] * 32), "vector"),
    _file("too narrow", "vector.safetensors", lambda path: save_vector(path, [1.0] * 31), "vector"),
    _file("of width 1", "vector.safetensors", lambda path: save_vector(path, [1.0]), "vector"),
    _file("no numbers", "vector.safetensors", lambda path: save_vector(path, []), "vector"),
]
WEIGHTS = "model/model.safetensors"
CHECKPOINTS = [
    _file("empty", WEIGHTS, lambda path: path.write_bytes(b"")),
    _file("torn", WEIGHTS, lambda path: path.write_bytes(path.read_bytes()[:-99])),
    _file("torn early", WEIGHTS, lambda path: path.write_bytes(path.read_bytes()[:99])),
    _file("a pointer", WEIGHTS, lambda path: path.write_bytes(POINTER)),
    _file("garbage", WEIGHTS, lambda path: path.write_bytes(bytes(range(256)) * 9)),
    _file("missing", WEIGHTS, lambda path: path.unlink()),
    _weights("a weight is missing", lambda weights: weights.pop("model.norm.weight")),
    _weights("a weight too many", lambda w: w.update({"model.layers.9.x": torch.zeros(1)})),
    _file("missing", "model/config.json", lambda path: path.unlink()),
    _file("empty", "model/config.json", lambda path: path.write_bytes(b"")),
    _file("a list", "model/config.json", lambda path: path.write_bytes(b"[]")),
    _file("torn", "model/config.json", lambda path: path.write_bytes(path.read_bytes()[:99])),
    _file("missing", "model/tokenizer.json", lambda path: path.unlink(), "tokenizer"),
    _file("garbage", "model/tokenizer.json", lambda path: path.write_bytes(b"{}"), "tokenizer"),
    _file("a pointer", "model/tokenizer.json", lambda p: p.write_bytes(POINTER), "tokenizer"),
    _file(
        "a syntax error",
        "model/chat_template.jinja",
        lambda path: path.write_text("{% for %}"),
        "template",
    ),
    _file(
        "names a file elsewhere",
        "model/model.safetensors.index.json",
        lambda path: path.write_text(
            '{"weight_map": {"lm_head.weight": "../../other.safetensors"}}'
        ),
    ),
    _file(
        "names no file",
        "model/model.safetensors.index.json",
        lambda path: path.write_text('{"weight_map": {}}'),
    ),
    _config("architectures", ["MadeUpForCausalLM"]),
    _config("architectures", []),
    _config("quantization_config", {"quant_method": "gptq"}),
    _config("num_hidden_layers", 2),
    _config("num_hidden_layers", 4),
    _config("num_hidden_layers", -1),
    _config("num_hidden_layers", "three"),
    _config("hidden_size", 33),
    _config("num_attention_heads", 5),
    _config("num_attention_heads", 0),
    _config("vocab_size", 10),
    _config("rms_norm_eps", "small"),
    _config("model_type", "made_up"),
]
