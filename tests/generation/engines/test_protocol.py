from typing import Any

import pytest

from mi_lens.evaluation.budget_curve import budget_curve, continue_traces
from mi_lens.evaluation.critical_tokens import roll_out
from mi_lens.evaluation.evaluate import evaluate
from mi_lens.generation.engines.protocol import Engine
from mi_lens.generation.engines.transformer_lens import TransformerLensEngine
from mi_lens.generation.generate import generate
from mi_lens.generation.plan import Plan
from mi_lens.generation.request import Request
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.recycle import Recycle
from mi_lens.interventions.sampling import Sampling
from mi_lens.interventions.suppress import Suppress
from mi_lens.models.fingerprint import model_fingerprint
from mi_lens.problems.problem import Problem
from tests.generation.engines.renamed import RenamedEngine
from tests.processes import result_of

PROBLEMS = [Problem(f"p{i}", q, "7") for i, q in enumerate(["What is 12 * 7?", "Hi", "So, 3?"])]
CONDITIONS = [
    Condition(name="baseline"),
    Condition((Suppress(["so", " the"]), Recycle(1, ["is", "in"])), Sampling(0.8), "both"),
]
HOOK = "blocks.1.hook_resid_post"


def test_an_engine_is_given_in_the_models_place(tiny_model):
    engine = RenamedEngine(tiny_model)
    assert isinstance(engine, Engine)
    assert isinstance(TransformerLensEngine(tiny_model), Engine)
    requests = [
        Request(problem, condition, seed=seed, max_new_tokens=8)
        for problem in PROBLEMS
        for condition in CONDITIONS
        for seed in (0, 1)
    ]
    ours = generate(tiny_model, requests, batch_size=5, progress=False)
    theirs = generate(engine, requests, batch_size=3, progress=False)
    for our, their in zip(ours, theirs, strict=True):
        assert (their.token_ids, their.events) == (our.token_ids, our.events)
        assert their.condition == {**our.condition, "engine": "renamed 1.0"}
        assert "engine" not in our.condition
        assert (their.model, our.model) == (engine.fingerprint, model_fingerprint(tiny_model))
    assert not {t.id for t in theirs} & {t.id for t in ours}


def test_our_own_loop_may_be_given_as_an_engine(tiny_model):
    traces = generate(tiny_model, PROBLEMS, max_new_tokens=4, progress=False)
    engine = TransformerLensEngine(tiny_model)
    assert generate(engine, PROBLEMS, max_new_tokens=4, progress=False) == traces
    assert Plan(engine).fingerprint == model_fingerprint(tiny_model)


def test_the_name_of_another_engine_is_part_of_an_id(tiny_model):
    engine = RenamedEngine(tiny_model)
    before = Plan(engine).trace_id(Request("Hi"))
    assert Plan(engine).trace_id(Request("Hi")) == before
    engine.name = "renamed 1.1"
    assert Plan(engine).trace_id(Request("Hi")) != before


def test_an_evaluation_names_its_engine(tiny_model, tmp_path):
    engine = RenamedEngine(tiny_model)
    evaluations = [
        evaluate(model, PROBLEMS, CONDITIONS, max_new_tokens=5, folder=tmp_path, progress=False)
        for model in (tiny_model, engine, engine)
    ]
    ours, theirs, again = evaluations
    assert theirs == again
    assert ours.setting["engine"] == "mi_lens, HookedTransformer"
    assert theirs.setting == {
        **ours.setting,
        "engine": "renamed 1.0",
        "model": engine.fingerprint,
    }
    assert not {r.trace for r in ours.results} & {r.trace for r in theirs.results}
    assert [r.tokens for r in ours.results] == [r.tokens for r in theirs.results]


def test_budgets_and_continuations_run_on_an_engine(tiny_model):
    engine = RenamedEngine(tiny_model)
    traces = generate(tiny_model, PROBLEMS, max_new_tokens=9, progress=False)
    assert budget_curve(engine, traces, [4, 9]) == budget_curve(tiny_model, traces, [4, 9])
    longer = continue_traces(engine, traces, "So", 14)
    expected = continue_traces(tiny_model, traces, "So", 14)
    assert [t.token_ids for t in longer] == [t.token_ids for t in expected]
    assert any(t.condition.get("engine") == "renamed 1.0" for t in longer)
    settings: dict[str, Any] = {"samples": 2, "max_new_tokens": 9}
    ours = roll_out(tiny_model, traces[:1], [[2]], **settings)
    assert roll_out(tiny_model, traces[:1], [[2]], engine=engine, **settings) == ours


def test_what_an_engine_refuses_is_refused_before_anything_runs(tiny_model, tmp_path):
    engine = RenamedEngine(tiny_model)
    message = (
        r"request 1 asks for the stop text 'never'; the engine renamed 1.0 does not do this: leave "
        r"it out, or use engine 'transformer_lens'"
    )
    requests = [Request("Hi", max_new_tokens=3), Request("Hi", max_new_tokens=3, stop=("never",))]
    with pytest.raises(ValueError, match=message):
        generate(engine, requests, progress=False)


def test_hooks_are_for_our_own_loop_only(tiny_model):
    engine, hooks = RenamedEngine(tiny_model), [(HOOK, lambda states, hook: 2 * states)]
    with pytest.raises(ValueError, match=r"fwd_hooks.*: the engine renamed 1\.0 runs no hooks of"):
        generate(engine, ["Hi"], fwd_hooks=hooks)
    with pytest.raises(ValueError, match=r"hooks_named='doubled': the engine renamed 1\.0 runs no"):
        evaluate(engine, PROBLEMS, [Condition()], hooks_named="doubled")
    with tiny_model.hooks(fwd_hooks=hooks), pytest.raises(ValueError, match="hooks on its model"):
        Plan(engine)
    given: dict[str, Any] = {"max_new_tokens": 4, "progress": False}
    (expected,) = generate(tiny_model, ["Hi"], fwd_hooks=hooks, hooks_named="doubled", **given)
    own = TransformerLensEngine(tiny_model)
    assert generate(own, ["Hi"], fwd_hooks=hooks, hooks_named="doubled", **given) == [expected]
    with_hooks = TransformerLensEngine(tiny_model, hooks, "doubled")
    assert generate(with_hooks, ["Hi"], **given) == [expected]


def errors_of_a_second_thread(folder: str) -> list[str]:
    """What `generate` says when one thread is in the middle of an engine's run."""
    import threading

    from mi_lens.generation.generate import stream
    from mi_lens.models.loading import load

    engine, errors = RenamedEngine(load(folder, device="cpu")), []
    running = stream(Plan(engine), [Request(q, max_new_tokens=3) for q in ("Hi", "So")])
    next(running)

    def second() -> None:
        try:
            generate(engine, ["Hi"], max_new_tokens=2, progress=False)
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=second)
    thread.start()
    thread.join()
    return errors


def test_one_thread_at_a_time_runs_an_engine(checkpoint):
    (error,) = result_of(errors_of_a_second_thread, str(checkpoint("llama")))
    assert "runs this model now" in error
