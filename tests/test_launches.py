"""A decoded step launches no more kernels, and waits no more often, than it did.

The numbers are those of `python -m experiments.timings.launches`, which do not depend on the
machine. Two small models give those of 24 layers: every further layer adds the same.
"""

import json
from pathlib import Path

import pytest
import torch

from experiments.timings import launches
from mi_lens.models.backends.lookup import available

pytestmark = [
    pytest.mark.skipif(torch.backends.cuda.is_built(), reason="PyTorch has its own CUDA"),
    pytest.mark.skipif("hooked" not in available(), reason="no HookedTransformer"),
]
ROOT = Path(__file__).resolve().parents[1]
# Engine and work: launches of a step of 24 layers, and waits, at most.
LIMITS = {
    ("mi_lens, hooked", "batch 1"): (474, 1),
    ("mi_lens, hooked", "batch 8"): (474, 1),
    ("mi_lens, hooked", "8 conditions"): (487, 1),
    ("mi_lens, hooked", "8 sampled"): (495, 1),
    ("mi_lens, bridge", "batch 1"): (1649, 4),
    ("mi_lens, bridge", "batch 8"): (1649, 4),
    ("mi_lens, bridge", "8 conditions"): (1662, 4),
    ("mi_lens, bridge", "8 sampled"): (1670, 4),
}


@pytest.fixture(scope="module")
def record():
    """The record of a model of two layers, and the steps of one of three."""
    small = launches.measure(launches.SHAPE | {"num_hidden_layers": 2}, 3, 5)
    larger = launches.steps(launches.SHAPE | {"num_hidden_layers": 3}, 3, 5)
    return small, {(step["engine"], step["what"]): step for step in larger}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_step_stays_within_its_limits(record):
    small, larger = record
    counted = {}
    for two in small["steps"]:
        three = larger[two["engine"], two["what"]]
        counted[two["engine"], two["what"]] = (
            two["launches"] + 22 * (three["launches"] - two["launches"]),
            max(two["waits"], three["waits"]),
        )
    over = {
        what: found
        for what, found in counted.items()
        if what in LIMITS and (found[0] > LIMITS[what][0] or found[1] > LIMITS[what][1])
    }
    assert counted.keys() >= LIMITS.keys()
    assert over == {}, counted


def test_cudnn_attention_serves_no_pass(record):
    kernels = {
        kernel.split(",")[0] for calls in record[0]["attention"].values() for kernel in calls
    }
    assert kernels <= {"efficient", "flash", "math"}
    assert "| hooked, capture |" in launches.table(record[0])


def test_the_page_has_the_table_as_it_was_counted():
    written = json.loads(launches.RECORD.read_text(encoding="utf-8"))
    assert written["shape"] == launches.SHAPE
    assert launches.table(written) in (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
