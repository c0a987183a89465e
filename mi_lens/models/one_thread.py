"""One thread at a time runs a model: its hooks and caches would get the other's states."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

_guard = threading.Lock()
# The thread that runs a model now, and how many blocks of it lie within each other.
_running: WeakKeyDictionary[Any, tuple[threading.Thread, int]] = WeakKeyDictionary()


@contextmanager
def only_thread(model: Any) -> Iterator[None]:
    """Lets no other thread run the model while the block does. Blocks of one thread may be nested.

    Raises:
        RuntimeError: If another thread runs the model; the message names it.
    """
    me = threading.current_thread()
    with _guard:
        thread, depth = _running.get(model, (me, 0))
        if thread is not me:
            raise RuntimeError(
                f"thread {thread.name!r} runs this model now, and thread {me.name!r} would get its "
                "hooks and tokens; wait for it, or load the model once for each thread"
            )
        _running[model] = me, depth + 1
    try:
        yield
    finally:
        with _guard:
            depth = _running[model][1] - 1
            if depth:
                _running[model] = me, depth
            else:
                del _running[model]
