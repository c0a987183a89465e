"""Trial answers on vLLM: a request that takes tokens back is given again from there."""

from dataclasses import replace

import pytest
import torch

from mi_lens.generation.generate import generate
from mi_lens.generation.request import Request
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.early_exit import EarlyExit
from mi_lens.interventions.probe import StateProbe
from mi_lens.interventions.probe_exit import ProbeExit
from mi_lens.interventions.recycle import Recycle
from mi_lens.interventions.sampling import Sampling
from mi_lens.interventions.schedule import Schedule
from mi_lens.interventions.steer import Steer
from mi_lens.interventions.suppress import Suppress
from mi_lens.models.loading import load
from mi_lens.problems.loading import load_problems
from tests.vllm.ties import require_ties

pytestmark = pytest.mark.vllm

FINAL = "\n</think>\n\nThe result is \\boxed{"
WORDS = ["Wait", "Hmm", "Alternatively"]


def conditions(d_model):
    direction = torch.linspace(-1, 1, d_model, dtype=torch.float64)
    never, often = EarlyExit(1.0, "boundary", final=FINAL), EarlyExit(0.9, WORDS)
    weights = 0.02 * torch.randn(d_model, generator=torch.Generator().manual_seed(2))
    about = ("", "right trace", 0.7, 0.6, 0.8, 4, 5, (0.0, 1.0), {})
    hook_name = "blocks.2.hook_resid_post"
    probe = ProbeExit(StateProbe(hook_name, weights.tolist(), -0.5, *about), 0.8)
    steer = Steer(direction, "blocks.1.hook_resid_post", 0.5, inside_think=False, at="all")
    recycle = Recycle(1, [*WORDS, "So", "The"], probability=0.7)
    return [
        (),
        (never,),
        (often,),
        (replace(often, trials=1, threshold=0.995),),
        (never, steer),
        (steer, Recycle(2, WORDS, trigger="consumed"), replace(never, threshold=0.9)),
        (never, recycle, Suppress(["Wait"])),
        (recycle, often, Schedule(60)),
        (Schedule(30, WORDS),),
        (Schedule(10, ["So", *WORDS]),),
        (steer, probe),
        (never, probe, recycle),
    ]


def test_trials_are_those_of_our_own_loop(engine):
    name = "pocket-reasoner"
    model = load(name, dtype="float32")
    problems = load_problems("pocket", limit=3)
    requests = []
    for i, parts in enumerate(conditions(model.cfg.d_model)):
        for j, problem in enumerate(problems):
            sampling = Sampling(0.8) if j % 2 else Sampling()
            prefix = model.tokenizer.encode("Let me see.\n\n") if j % 3 == 1 else ()
            stop = ("result is", 99) if j % 3 == 2 else ()
            limits = {
                "max_new_tokens": 60 if i % 3 == 1 and not j else 200,
                "prefix": tuple(prefix),
            }
            requests.append(
                Request(problem, Condition(parts, sampling), seed=i, stop=stop, **limits)
            )
    ours = generate(model, requests, batch_size=64, progress=False)
    theirs = generate(engine(name), requests, progress=False)
    exact = load(name, dtype="float64")
    assert require_ties(exact, requests, ours, theirs) <= 1
    done = [event["what"] for trace in theirs for event in trace.events]
    both = {"trial", "probe", "exit", "raise", "end thinking", "recycle", "steer", "logits"}
    assert both <= set(done)
    assert {trace.stop_reason for trace in theirs} == {"eos", "stop", "length"}
