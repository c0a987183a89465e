"""Two threads on one model: the second is refused by name, and the first gets its own tokens."""

import gc
import threading

import pytest

import mi_lens
from mi_lens.generation.generate import stream
from mi_lens.generation.plan import Plan
from mi_lens.generation.request import Request
from mi_lens.models.one_thread import only_thread

PROBLEMS = [mi_lens.Problem(id=str(i), question=f"{i} + 1?", answer=str(i + 1)) for i in range(3)]
HOOK = "blocks.1.hook_resid_post"


def in_another_thread(call):
    """The error that a call raises in another thread; None if it raises none."""
    raised = []

    def run():
        try:
            call()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=run, name="second")
    thread.start()
    thread.join()
    return raised[0] if raised else None


@pytest.mark.parametrize("name", ["tiny_model", "tiny_bridge"])
def test_a_second_thread_is_refused_while_the_first_generates(name, request):
    model = request.getfixturevalue(name)
    expected = mi_lens.generate(model, PROBLEMS, max_new_tokens=6)
    errors = []

    def interrupt(states, hook):
        if not errors:
            errors.append(
                in_another_thread(lambda: mi_lens.generate(model, PROBLEMS, max_new_tokens=2))
            )
            errors.append(in_another_thread(lambda: mi_lens.capture(model, expected, [HOOK])))

    traces = mi_lens.generate(model, PROBLEMS, max_new_tokens=6, fwd_hooks=[(HOOK, interrupt)])
    for error in errors:
        assert isinstance(error, RuntimeError)
        assert "thread 'MainThread' runs this model now, and thread 'second'" in str(error)
    assert [t.token_ids for t in traces] == [t.token_ids for t in expected]
    assert in_another_thread(lambda: mi_lens.generate(model, PROBLEMS, max_new_tokens=2)) is None


def test_one_thread_may_nest_and_an_abandoned_stream_frees_the_model(tiny_model):
    running = stream(Plan(tiny_model), [Request(p, max_new_tokens=4) for p in PROBLEMS])
    next(running)
    mi_lens.capture(tiny_model, mi_lens.generate(tiny_model, PROBLEMS, max_new_tokens=2), [HOOK])
    assert isinstance(
        in_another_thread(lambda: mi_lens.generate(tiny_model, PROBLEMS)), RuntimeError
    )
    del running
    gc.collect()

    def take():
        with only_thread(tiny_model):
            pass

    assert in_another_thread(take) is None


def test_an_error_frees_the_model(tiny_model):
    with pytest.raises(ZeroDivisionError), only_thread(tiny_model):
        _ = 1 / 0
    assert (
        in_another_thread(lambda: mi_lens.generate(tiny_model, PROBLEMS, max_new_tokens=2)) is None
    )
