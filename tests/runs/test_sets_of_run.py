"""The set "@controls" in mi-lens evaluate: made once, kept, read back; what it lacks is said."""

import re

import pytest
import torch

import mi_lens
from mi_lens.common.files import write_jsonl
from mi_lens.evaluation import reasoning_controls
from mi_lens.evaluation.condition_sets import kept_sets, names_in
from mi_lens.evaluation.reasoning_controls import DRAWN, METHODS, Controls
from mi_lens.interventions.steer import Steer
from mi_lens.interventions.suppress import Suppress
from mi_lens.report.loading import read_runs
from mi_lens.runs.config import EvaluateConfig
from mi_lens.runs.evaluate import run_evaluate
from mi_lens.runs.sets_of_run import parse_set
from mi_lens.runs.status import RunProgress, status
from mi_lens.runs.sweep_spec import Spec
from mi_lens.traces.vocabulary import as_words

TEXT = "@controls(limit=6, draws=2)"


def settings_for(tmp_path, **changes):
    settings = {"out": tmp_path / "run", "limit": 2, "device": "cpu", "max_new_tokens": 256}
    return EvaluateConfig(**{**settings, "conditions": (TEXT,), **changes})


def test_a_run_makes_its_set_once_and_reads_it_back(tmp_path, monkeypatch):
    config = settings_for(tmp_path)
    made = []
    make = Controls.make

    def counted(self, model, traces):
        made.append(len(traces))
        return make(self, model, traces)

    monkeypatch.setattr(Controls, "make", counted)

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mi_lens.runs.evaluate.evaluate_with", killed)
        with pytest.raises(KeyboardInterrupt):
            run_evaluate(config)
    names = names_in(config.out, config.conditions)
    progress = status(config.out).progress
    assert isinstance(progress, RunProgress)
    assert progress.asked == 2 * len(names)
    evaluation = run_evaluate(config)
    assert made == [6]
    assert evaluation.names == names
    assert names[0] == "baseline"
    left_out = kept_sets(config.out)[TEXT].left_out
    told = {name for name in METHODS if name not in DRAWN and name not in left_out}
    told |= {f"{name} {draw}" for name in DRAWN if name not in left_out for draw in (1, 2)}
    assert set(names) == {"baseline"} | told
    assert len(told) >= 14
    loaded = mi_lens.Evaluation.load(config.out)
    assert loaded.names == names
    (run,) = read_runs([config.out])
    assert run.evaluation is not None

    with pytest.raises(FileExistsError, match="controls"):
        run_evaluate(settings_for(tmp_path, conditions=("@controls(limit=5, draws=2)",)))


def test_what_an_engine_cannot_run_is_left_out_with_the_reason(tmp_path, capsys, monkeypatch):
    few = {name: METHODS[name] for name in ("logit penalty", "SEAL")}
    monkeypatch.setattr(reasoning_controls, "METHODS", few)
    config = settings_for(tmp_path, engine="huggingface", max_new_tokens=128)
    evaluation = run_evaluate(config)
    assert evaluation.names == ["baseline"]
    left_out = kept_sets(config.out)[TEXT].left_out
    assert set(left_out) == set(few)
    assert all("does not do this" in why for why in left_out.values())
    assert "leaves out 'logit penalty'" in capsys.readouterr().err


def test_methods_take_what_the_traces_say(tmp_path):
    model = mi_lens.load("pocket-reasoner", device="cpu")
    problems = mi_lens.load_problems("pocket", limit=4, split="train")
    traces = mi_lens.generate(model, [mi_lens.Request(p, max_new_tokens=256) for p in problems])
    made = Controls(draws=1).make(model, traces)
    conditions = {condition.name: condition for condition in made.conditions}
    (steer,) = conditions["SEAL"].interventions
    (at_random,) = conditions["random direction 1"].interventions
    (quiet,) = conditions["suppressed"].interventions
    assert isinstance(steer, Steer)
    assert isinstance(at_random, Steer)
    assert isinstance(quiet, Suppress)
    vector = mi_lens.extract_steering_vectors(model, traces, ["blocks.3.hook_resid_pre"])
    torch.testing.assert_close(
        steer.vector, vector["blocks.3.hook_resid_pre"].vector.double(), rtol=0, atol=0
    )
    assert at_random.variant == "random"
    text = " ".join(trace.text for trace in traces)
    assert all(re.search(rf"\b{word}\b", text, re.IGNORECASE) for word in as_words(quiet.words))
    # Traces without a thought give no vector, and say so.
    short = [mi_lens.generate(model, [mi_lens.Request(problems[0], max_new_tokens=2)])[0]]
    made = Controls(draws=1).make(model, short)
    assert "thoughts" in made.left_out["SEAL"]
    assert "SEAL" not in [condition.name for condition in made.conditions]


def test_problems_that_are_evaluated_make_no_set(tmp_path):
    path = tmp_path / "problems.jsonl"
    write_jsonl(path, [{"question": f"{i} + 1?", "answer": str(i + 1)} for i in range(3)])
    with pytest.raises(ValueError, match=r"2 of its 3 problems .* are evaluated too"):
        run_evaluate(settings_for(tmp_path, problems=str(path)))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("@nothing", "expected one of"),
        ("@controls(limit=1)", "limit"),
        ("@controls(size=3)", "unknown"),
        ("@controls(", "expected a call"),
    ],
)
def test_a_text_that_is_no_set_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_set(text)


def test_a_sweep_takes_no_set():
    with pytest.raises(ValueError, match="only mi-lens evaluate makes"):
        Spec.of({"conditions": ["@controls"], "models": ["pocket-reasoner"]}).expand()
