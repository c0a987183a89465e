"""The states of a text that is read to be measured, kept where they are until it was read."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from mi_lens.generation.engines.vllm_worker.layers import Stream
from mi_lens.generation.engines.vllm_worker.parts import Piece
from mi_lens.models.overflow import require_finite
from mi_lens.traces.trace import Trace


@dataclass(eq=False)
class Watch:
    """Keeps the states of a text at some hook names, at neighbouring positions.

    Attributes:
        names: The hook names, of the residual stream between blocks.
        first: The first position.
        stop: The position behind the last.
        trace: What the text is, if it is not an answer.
        states: By hook name, the states; those of positions that were read so far are there.
        reached: By hook name, the position behind the last that was read without a gap.
    """

    names: Sequence[str]
    first: int
    stop: int
    trace: Trace | None = None
    states: dict[str, Float[Tensor, "pos d"]] = field(default_factory=dict)
    reached: dict[str, int] = field(default_factory=dict)

    def see(self, name: str, piece: Piece, stream: Stream) -> None:
        """Takes the states that a step has at a hook name, if they are wanted."""
        first, stop = max(self.first, piece.first), min(self.stop, piece.stop)
        if name not in self.names or first >= stop:
            return
        at = piece.start - piece.first
        part = stream.at(slice(at + first, at + stop))
        if name not in self.states:  # Whole at once: joining parts would take twice the memory.
            self.states[name] = part.new_empty(self.stop - self.first, part.shape[1])
        self.states[name][first - self.first : stop - self.first] = part
        reached = self.reached.get(name, self.first)
        if first <= reached:
            self.reached[name] = max(reached, stop)

    def take(self) -> dict[str, Float[Tensor, "pos d"]]:
        """All states by hook name, which are then no more kept here.

        Raises:
            ValueError: If a position was not read, or a state is not finite.
        """
        states, self.states = self.states, {}
        for name in self.names:
            if (reached := self.reached.get(name, self.first)) < self.stop:
                raise ValueError(
                    f"{name}: position {reached} was not read; expected all from {self.first} to "
                    f"{self.stop - 1}, none of them out of the cache"
                )
            require_finite(
                states[name],
                lambda place, name=name: f"{name}: the state at position {self.first + place}",
            )
        return {name: states[name] for name in self.names}
