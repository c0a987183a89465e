"""Studies run small, for `tests/test_experiments_*.py`: each runs those that share an analysis."""

import json
import re
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from experiments import STUDIES, STUDIES_OF_SMOLLM2
from experiments.labels import label_of_record
from tests.processes import result_of

OF_THOUGHTS = STUDIES.index("thought_statistics")  # Paper 2 and what follows.
STUDIES_OF_MI = (*STUDIES[:OF_THOUGHTS], *STUDIES_OF_SMOLLM2[:-1])
OTHER_STUDIES = (*STUDIES[OF_THOUGHTS:], *STUDIES_OF_SMOLLM2[-1:])

PROBLEMS = 12
# Labels that no number of problems changes.
SETTLED = {
    "answer_belief": "by construction",
    "attention_to": "not asked",
    "critical_tokens": "not asked",
    "critical_words": "by construction",
    "error_bounds": "by construction",
    "suppression": "by construction",
    "one_axis": "not asked",
    "reasoning_controls": "not asked",
    "thought_gains": "by construction",
}
CHEAPER: dict[str, dict[str, Any]] = {
    "answer_state_choices": {"limit": 6, "mismatched": 4},
    "boundary_reproducibility": {"samples": 2, "dtypes": ("float64",), "thoughts": 1},
    "critical_tokens": {"samples": 4, "rolled_out": 2, "steps": 2, "continuations": 2},
    "critical_words": {"samples": 4, "minimum_problems": 2},
    "dose_response": {"limit": 6, "vector_limit": 18, "alphas": (0.5, 1.0), "directions": 2},
    "error_bounds": {"limit": 24},
    "information_across_problems": {"limit": 24, "parts": ("parity",), "shuffles": 2, "draws": 2},
    "layer_sweep": {"limit": 4, "text_limit": 8, "every": 3, "words": 2},
    "one_axis": {"trained_on": 4, "updates": 2, "samples": 4},
    "peak_interventions": {"tried": 4, "steps": 2, "draws": 2},
    "reasoning_controls": {"limit": 4, "vector_limit": 12, "draws": 1},
    "recycling": {"passes": (1, 2), "layers": (2,), "draws": 2},
    "reproducibility": {"limit": 4, "dtypes": ("float32", "float64")},
    "resampled_thoughts": {"samples": 4, "rounds": 0, "caliper": 3.0},
    "seal_table": {"limit": 8, "draws": 2},
    "small_benchmarks": {"limit": 6, "seeds": 2},
    "steering_ablations": {"limit": 6, "alphas": (0.5, 1.0), "draws": 2},
    "steering_transfer": {"draws": 2},
    "suppression": {"limit": 8, "words": ("Wait",), "draws": 1},
    "test_time_scaling": {
        "limit": 6,
        "words": ("Wait",),
        "samples": 2,
        "max_new_tokens": 384,
        "budgets": (64, 128, 384),
    },
    "truncation": {"draws": 2, "budgets": 5},
    "vector_stability": {"splits": 10},
}


def run_small(name: str, runs: Path, out: Path) -> dict[str, Any]:
    """Runs a study on few problems and returns its record."""
    settings = {"limit": PROBLEMS, "runs": runs, "out": out} | CHEAPER.get(name, {})
    result_of(run_study, name, settings)
    return json.loads((out / f"{name}.json").read_text(encoding="utf-8"))


def run_study(name: str, settings: dict[str, Any]) -> None:
    """Runs a study in a child, where types are not checked, which takes a third of the time.

    The functions that it calls have tests of their own, where types are.
    """
    warnings.filterwarnings("error", module="experiments|mi_lens")
    study = import_module(f"experiments.{name}")
    study.main(study.Config(**settings))
    assert not plt.get_fignums()


def no_constant(value: str) -> None:
    """NaN and infinity are no JSON."""
    raise AssertionError(f"{value} in the JSON")


def check_study(name: str, runs: Path, out: Path) -> None:
    """Runs a study small, and checks its record and its figure."""
    record = run_small(name, runs, out)
    assert record["label"] == label_of_record(record)
    assert record["label"] == SETTLED.get(name, record["label"])
    assert all(re.search(r"\.$", premise["text"]) for premise in record["premises"])
    assert record["about"]
    assert record["claim"]
    assert record["numbers"]
    assert "pocket-reasoner" in record["models"]
    assert record["command"].startswith(f"python -m experiments.{name}")
    sentences = [s for s in re.split(r"(?<=[.!?])\s+(?=[A-Z0-9'\"])", record["text"]) if s]
    assert len(sentences) == 2, record["text"]
    assert re.search(r"\d", record["text"])
    assert not re.search(r"\bNone\b|\bnan\b|\binf\b|-0\.0+\b", record["text"]), record["text"]
    written = (out / f"{name}.json").read_text(encoding="utf-8")
    json.loads(written, parse_constant=no_constant)
    assert len(written) < 1_000_000
    assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (out / f"{name}.svg").read_text(encoding="utf-8")
