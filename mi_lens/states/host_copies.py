"""States copied from the model's device to the host while the model reads on.

A device works behind the host. If a hook copied states to the host at once, the host would wait for
the device at every hook, and then the device for the host. Here the host waits for the copies of a
segment once the next segment is under way. CUDA makes them meanwhile, into pinned memory and on a
stream of its own.
"""

from collections.abc import Callable
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

# Receives (row, hook name, states, whether all of them are finite).
Take = Callable[[int, str, Float[Tensor, "part d"], bool], None]


class HostCopies:
    """Passes on states that hooks see, on the host, one segment behind the model.

    States that are on the host already are passed on at once, and not copied.

    Args:
        take: A function that is called with a row, a hook name, its states, and whether these are
            finite.
    """

    def __init__(self, take: Take):
        self._take = take
        self._seen: list[tuple[int, str, Callable[[], Tensor], Callable[[], Tensor]]] = []
        self._before = self._seen[:]

    def see(self, row: int, name: str, states: Float[Tensor, "part d"]) -> None:
        """Takes over what a hook sees. The hook's activation may change afterwards."""
        finite = states.isfinite().all()
        if states.device.type == "cpu":
            self._take(row, name, states, bool(finite))
        else:
            self._seen.append((row, name, begin_copy(states.clone()), begin_copy(finite)))

    def segment_launched(self) -> None:
        """Passes on the states of the segment before the one that was just launched."""
        before, self._before, self._seen = self._before, self._seen, []
        for row, name, states, finite in before:
            self._take(row, name, states(), bool(finite()))

    def finish(self) -> None:
        """Passes on the states of the last segment."""
        self.segment_launched()


def begin_copy(tensor: Tensor) -> Callable[[], Tensor]:
    """Begins to copy a tensor to the host, where that needs no waiting.

    Returns:
        A function that waits for the copy and returns it. Until then the tensor must not change.
    """
    if not torch.cuda.is_available():
        return tensor.cpu
    stream = _stream_of_copies(tensor.device)
    stream.wait_stream(torch.cuda.current_stream(tensor.device))
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    with torch.cuda.stream(stream):
        copy.copy_(tensor, non_blocking=True)
    tensor.record_stream(stream)  # its memory is not used anew before the copy is made
    copied = stream.record_event()

    def waited() -> Tensor:
        copied.synchronize()
        return copy

    return waited


@cache
def _stream_of_copies(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
