"""What crosses between a device and the host: a few numbers, not distributions, not waits."""

import pytest
import torch

import mi_lens
from mi_lens.generation.plan import Plan
from mi_lens.information.per_trace.readouts import decode_steps
from mi_lens.models.fingerprint import model_fingerprint
from mi_lens.models.loading import load
from mi_lens.problems.problem import Problem
from mi_lens.runs import measure as measuring
from mi_lens.runs.config import AnalyzeConfig
from mi_lens.states import segments
from mi_lens.states.capture import capture
from mi_lens.states.capture_to_disk import capture_into
from mi_lens.states.shard import load_activations
from mi_lens.states.uncertainty import next_token_explanations
from mi_lens.traces.trace import Trace
from tests.pretend_device import pretend_devices

pytestmark = pytest.mark.skipif(torch.backends.cuda.is_built(), reason="PyTorch has its own CUDA")
NAMES = [f"blocks.{layer}.hook_resid_post" for layer in range(3)]
TEXT = "Okay.\n\n12 * 7 is 84.\n\nWait, let me see.\n\nSo 84.\n</think>\n\nThe answer is 84."
PROBLEMS = [Problem(f"set/{i}", f"What is {i} * 7?", str(7 * i), str(7 * i)) for i in (12, 13, 14)]


@pytest.fixture(scope="module", autouse=True)
def devices():
    with pretend_devices() as made:
        yield made


@pytest.fixture(scope="module")
def model(checkpoint, devices):
    return load(checkpoint("llama"), backend="hooked", dtype="float64", device="cuda:0")


@pytest.fixture(scope="module")
def host_model(checkpoint, devices):
    return load(checkpoint("llama"), backend="hooked", dtype="float64", device="cpu")


@pytest.fixture(scope="module")
def traces(host_model):
    return [Trace.from_text(host_model.tokenizer, problem, TEXT) for problem in PROBLEMS]


def within(counts, *modules):
    """How often something happened in some modules."""
    return sum(n for (_, line), n in counts.items() if line.startswith(modules))


def test_copies_of_a_segment_wait_for_the_next(model, host_model, traces, devices, monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT", 16)
    order = []
    keep = segments._Kept.add

    def add(kept, row, name, part):
        assert part.device.type == "cpu"
        order.append(name)
        keep(kept, row, name, part)

    monkeypatch.setattr(segments._Kept, "add", add)

    def double(states, hook):
        """What was seen before, in the same memory, is copied as it was."""
        order.append("segment")
        states.mul_(2)

    captured = {}
    for on in (host_model, model):
        order.clear()
        with on.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", double)]), devices.counted() as counts:
            (captured[on],) = capture(on, traces[:1], NAMES)
    for name in NAMES:
        torch.testing.assert_close(captured[model][name], captured[host_model][name])
    read, first = order.count("segment"), order.index(NAMES[0])
    assert read == 4
    assert order[first:] == [*NAMES, "segment"] * (read - first) + 2 * NAMES
    assert order[:first] == ["segment"] * first  # with the segment after that of the first step
    parts = 3 * (read - first + 2)
    assert within(counts.downloads, "states/") == counts.downloads.total() == 2 * parts


def test_states_on_disk_are_those_of_the_host(model, host_model, traces, tmp_path):
    here = capture_into(model, traces[:1], NAMES, tmp_path / "device")
    there = capture(host_model, traces[:1], NAMES)
    for name, states in load_activations(here[0]).items():
        torch.testing.assert_close(states, there[0][name])


def test_a_state_that_is_not_finite_is_named(model, traces):
    def spoil(states, hook):
        states[:, 20:, 5] = torch.inf
        return states

    with (
        model.hooks(fwd_hooks=[(NAMES[1], spoil)]),
        pytest.raises(
            ValueError, match=f"{NAMES[1]}: the state of sequence 0 at position 20 holds inf"
        ),
    ):
        capture(model, traces[:1], NAMES[1:2])


def test_distributions_stay_on_the_device(model, traces, devices):
    (states,) = capture(model, traces[:1], NAMES)
    trace, last = traces[0], states[NAMES[-1]]
    of_package = ("states/", "information/")
    for work in (
        lambda: next_token_explanations(model, trace, last, last[0]),
        lambda: mi_lens.next_token_similarity(model, trace, last, last[0]),
        lambda: mi_lens.answer_probability(model, trace, states),
        lambda: decode_steps(model, trace, "logit_lens", last),
        lambda: mi_lens.thought_gains(model, [trace]),
    ):
        with devices.counted() as counts:
            work()
        assert within(counts.downloads, *of_package) == counts.downloads.total() == 1


def test_numbers_are_those_of_the_host(model, host_model, traces):
    def numbers(on):
        (states,) = capture(on, traces[:1], NAMES)
        last = states[NAMES[-1]]
        told = next_token_explanations(on, traces[0], last, last[0])
        (gains,) = mi_lens.thought_gains(on, traces[:1])
        probabilities = mi_lens.answer_probability(on, traces[0], states)
        return [*told.values(), gains.bits, *probabilities.values()]

    for here, there in zip(numbers(model), numbers(host_model), strict=True):
        assert here == pytest.approx(there, rel=1e-4, abs=1e-6)


def test_states_are_measured_on_the_device(model, traces, devices, tmp_path):
    """Kept or not, on the same device, with the same numbers; not kept, no state is copied."""
    plan, results, copies = Plan(model), {}, {}
    for keep in (True, False):
        config = AnalyzeConfig(out=tmp_path / str(keep), keep_states=keep)
        config.out.mkdir()
        with devices.counted() as counts:
            measured = measuring.measure_into(
                config.out, config, plan, traces[:1], NAMES[:1], progress=False
            )
        results[keep] = [
            measuring.measurement_to_row(measurement)
            for by_hook in measured.values()
            for measurement in by_hook.values()
        ]
        assert within(counts.float64, "information/per_trace/hsic.py") > 0
        copies[keep] = within(counts.downloads, "states/host_copies.py")
    # Answers are copied; of the trace, states and their finiteness at two hook names.
    assert copies[True] - copies[False] == 2 * 2
    assert len(results[True]) == 1
    assert results[True] == results[False]


def test_a_fingerprint_waits_once(model, host_model, devices):
    with devices.counted() as counts:
        fingerprint = model_fingerprint(model)
    assert (counts.downloads.total(), counts.waits.total()) == (1, 1)
    assert fingerprint == model_fingerprint(host_model)
