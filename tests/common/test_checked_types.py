"""Settings of another type or range are refused, with their name, wherever they come from."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

import mi_lens
from mi_lens.cli import main
from mi_lens.common.checked_types import require_distinct, require_types
from mi_lens.interventions.forbid import ForbidAt
from mi_lens.runs.config import AnalyzeConfig, EvaluateConfig, GenerateConfig
from mi_lens.runs.sweep_spec import Spec
from tests.processes import result_of


@dataclass(frozen=True)
class Settings:
    """Some settings."""

    count: int = 1
    share: float = 0.5
    names: tuple[str, ...] = ()
    kind: Literal["a", "b"] = "a"
    limit: int | None = None
    grid: dict[str, tuple[Any, ...]] | None = None


@pytest.mark.parametrize(
    "right",
    [{}, {"share": 1}, {"names": ("x", "y")}, {"limit": 3}, {"grid": {"layer": (0, "x")}}],
)
def test_what_fits_is_taken(right):
    require_types(Settings(**right))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"count": True}, r"count=True: Input should be a valid integer; expected int"),
        ({"count": 1.0}, r"count=1.0: .*integer"),
        ({"count": "1"}, r"count='1': .*integer"),
        ({"share": "0.5"}, r"share='0.5': .*number"),
        ({"names": "xy"}, r"names='xy': .*tuple"),
        ({"names": ("x", 3)}, r"names=\('x', 3\): .*string at names\[1\]"),
        ({"kind": "c"}, r"kind='c': Input should be 'a' or 'b'"),
        ({"limit": False}, r"limit=False: .*integer"),
        ({"grid": {"layer": 3}}, r"grid=.* at grid\['layer'\]"),
    ],
)
def test_what_does_not_fit_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        require_types(Settings(**wrong))


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("analyze", ["--sigma=-1"], "sigma=-1.0: expected a positive width"),
        ("analyze", ["--sigma", "nan"], "sigma=nan: expected a positive width"),
        ("analyze", ["--peaks", "IQR(-1)"], "tau=-1"),
        ("analyze", ["--mismatched", "-1"], "mismatched=-1: expected at least 0"),
        ("generate", ["--seed", "-1"], "seed=-1: expected at least 0"),
        ("generate", ["--batch-size", "0"], "batch_size=0: expected at least 1"),
        ("generate", ["--limit", "0"], "limit=0: expected at least 1"),
        ("generate", ["--max-new-tokens", "0"], "max_new_tokens=0: expected at least 1"),
        ("evaluate", ["--seeds", "0", "0"], "seeds: 0 more than once"),
    ],
)
def test_a_refused_command_leaves_no_folder(command, options, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--out", str(tmp_path / "run"), *options])
    assert stop.value.code == 2
    shown = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert message in shown
    assert not (tmp_path / "run").exists()


FILES = [
    ({"limit": "five"}, "limit='five'"),
    ({"limit": True}, "limit=True"),
    ({"grid": 5}, "grid=5: expected names with lists of values"),
    ({"grid": [1]}, r"grid=\[1\]"),
    ({"conditions": None}, r"conditions=\(None,\)"),
    ({"conditions": []}, "conditions: none; expected at least one"),
    ({"seeds": "x"}, r"seeds=\('x',\)"),
    ({"seeds": [1.5]}, r"seeds=\(1.5,\)"),
    ({"seeds": [0, 0]}, "seeds: 0 more than once"),
    ({"models": ["a", "b", "a"]}, "models: 'a' more than once"),
    ({"models": [3]}, r"models=\(3,\)"),
    ({"unit": 0}, "unit=0"),
    ({"temperature": "hot"}, "temperature='hot'"),
    ({"dtype": 32}, "dtype=32"),
    ({"style": "loud"}, "style='loud'"),
]
CALLS = [
    (lambda: GenerateConfig(out="x"), "out='x': "),  # type: ignore[arg-type]
    (lambda: AnalyzeConfig(out=Path("x"), sigma=math.inf), "sigma=inf"),
    (lambda: EvaluateConfig(out=Path("x"), seeds=()), "seeds: none"),
    (lambda: mi_lens.generate(NO_MODEL, "1+1"), r"requests='1\+1': a single one"),
    (lambda: mi_lens.generate(NO_MODEL, ["1+1"], stop="the"), r"stop='the': a text"),
    (lambda: mi_lens.Request("1+1", seed=1.0), "seed=1.0"),  # type: ignore[arg-type]
    (lambda: mi_lens.Request("1+1", prefix=(True,)), r"prefix=\(True,\)"),
    (lambda: mi_lens.Request("1+1", style="loud"), "style='loud'"),  # type: ignore[arg-type]
    (lambda: mi_lens.Request("1+1", max_new_tokens=0), "max_new_tokens=0"),
    (lambda: mi_lens.Request("1 \ud800"), r"the question holds '\\ud800' at character 2"),
    (lambda: mi_lens.Suppress([True]), "True is neither a word"),
    (lambda: mi_lens.Continue([""]), "expected texts to continue from"),
    (lambda: ForbidAt("x", 3), "step='x'"),  # type: ignore[arg-type]
    (lambda: ForbidAt(0, -1), "token=-1"),
    (lambda: mi_lens.Problem(id="p", question="q", answer=7), "answer=7; expected text"),  # type: ignore[arg-type]
    (lambda: mi_lens.Problem(id="p", question="q", answer=b"7"), "answer=b'7'"),  # type: ignore[arg-type]
]
NO_MODEL: Any = None


def refusals(folder: Path) -> list[str]:
    """The messages of all these, in a process without the type checker of tests, which is first."""
    path = folder / "sweep.yaml"
    messages = []
    for settings, _ in FILES:
        path.write_text(yaml.safe_dump({"conditions": ["baseline"]} | settings), encoding="utf-8")
        messages.append(message_of(lambda: Spec.read(path)))
    return messages + [message_of(call) for call, _ in CALLS]


def message_of(call: Callable[[], object]) -> str:
    try:
        return f"not refused: {call()}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def test_files_configurations_and_requests_are_refused_alike(tmp_path):
    messages = result_of(refusals, tmp_path)
    assert len(messages) == len(FILES) + len(CALLS)
    for (_, expected), message in zip([*FILES, *CALLS], messages, strict=True):
        assert message.startswith("ValueError: "), message
        assert re.search(expected, message), message
    assert all("sweep.yaml: " in message for message in messages[: len(FILES)])


def test_each_once():
    require_distinct("seeds", (0, 1))
    with pytest.raises(ValueError, match="problems: 'a' more than once"):
        require_distinct("problems", ["a", "b", "a"])
