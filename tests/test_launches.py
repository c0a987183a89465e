"""A decoded step launches no more kernels, and waits no more often, than it did.

The numbers are those of `python -m experiments.timings.launches`, which do not depend on the
machine. Two small models give those of 24 layers: every two further layers add the same.
"""

import json
from pathlib import Path
from unittest import mock

import pytest
import torch

import mi_lens
from experiments.timings import launches
from mi_lens.interventions.probe import StateProbe
from mi_lens.models.backends.lookup import available

pytestmark = [
    pytest.mark.skipif(torch.backends.cuda.is_built(), reason="PyTorch has its own CUDA"),
    pytest.mark.skipif("hooked" not in available(), reason="no HookedTransformer"),
]
ROOT = Path(__file__).resolve().parents[1]
# Engine and work: launches of a step of 24 layers, and waits of a step of four layers, at most. A
# recycled candidate takes a second wait: the host must know it to decide.
LIMITS = {
    ("mi_lens, hooked", "batch 1"): (474, 1),
    ("mi_lens, hooked", "batch 8"): (474, 1),
    ("mi_lens, hooked", "8 conditions"): (952, 2),
    ("mi_lens, hooked", "8 sampled"): (495, 1),
    ("mi_lens, bridge", "batch 1"): (987, 1),
    ("mi_lens, bridge", "batch 8"): (987, 1),
    ("mi_lens, bridge", "8 conditions"): (1694, 8),
    ("mi_lens, bridge", "8 sampled"): (1008, 1),
}


@pytest.fixture(scope="module")
def record():
    """The record of a model of two layers, and the steps of one of four.

    TransformerLens's own generate is left out: it launches most, and is nothing of ours.
    """
    with mock.patch.object(launches, "lens_generate", return_value=abs):
        small = launches.measure(launches.SHAPE | {"num_hidden_layers": 2}, 3, 5)
        larger = launches.steps(launches.SHAPE | {"num_hidden_layers": 4}, 3, 5)
    return small, {(step["engine"], step["what"]): step for step in larger}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_step_stays_within_its_limits(record):
    small, larger = record
    counted = {}
    for two in small["steps"]:
        four = larger[two["engine"], two["what"]]
        counted[two["engine"], two["what"]] = (
            two["launches"] + 11 * (four["launches"] - two["launches"]),
            max(two["waits"], four["waits"]),
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


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["hooked", "bridge"])
def test_gates_wait_no_more(name):
    """What they measured comes to the host with the candidates."""
    shape = launches.SHAPE | {"num_hidden_layers": 2}
    with launches.models_on_a_pretend_device(shape) as (devices, models):
        model = models[name]
        words = list(range(len(model.tokenizer)))
        hook = "blocks.0.hook_resid_post"
        weights = [0.1] * model.cfg.d_model
        probe = StateProbe(hook, weights, 0.0, "", "IQR()", 0.5, 0.4, 0.6, 1, 1, (0.0, 1.0), {})
        steer = mi_lens.Steer(torch.linspace(-1, 1, model.cfg.d_model), hook, at=words)
        gates = [
            mi_lens.Gate(mi_lens.Suppress(words[::2]), entropy=0.1),
            mi_lens.Gate(mi_lens.RaiseTemperature(words, 2.0), entropy=0.1),
            mi_lens.Gate(steer, entropy=0.1),
            mi_lens.Gate(mi_lens.LogitPenalty(words[::2], -2.0), probe=probe),
        ]
        conditions = [mi_lens.Condition((gate,)) for gate in gates]
        prompts = launches.prompts_of(model.tokenizer, len(gates))
        step = launches.a_step(devices, launches.ours(model, prompts, conditions), 3, 5)
    assert step["waits"] == 1
