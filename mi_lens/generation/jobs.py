"""Generations under way, and what acts on each of them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Float
from torch import Tensor

from mi_lens.common.on_device import on_device
from mi_lens.generation.candidates import Candidates
from mi_lens.interventions.protocol import Action
from mi_lens.interventions.row import Row
from mi_lens.interventions.sampling import Sampling
from mi_lens.traces.trace import StopReason


@dataclass
class Job:
    """A row with all that the loop needs to continue it.

    Attributes:
        index: The number that the caller knows the job by.
        row: What interventions see.
        sampling: How tokens are drawn.
        actions: What acts on the row, in this order.
        stops: Texts and token ids that end the row once generated.
        context: The most tokens that prompt and generated tokens may be together.
        wanted: The candidate that the logits would have given without interventions on them.
        seconds: The job's share of the time that its batches took.
        stop_reason: Why the row ended; None while it is under way.
        taken_back: How many tokens the row took back in this step (`Trial`).
    """

    index: int
    row: Row
    sampling: Sampling
    actions: tuple[Action, ...]
    stops: tuple[str | int, ...]
    context: int
    wanted: int | None = None
    seconds: float = 0.0
    stop_reason: StopReason | None = None
    taken_back: int = 0

    @property
    def will_edit(self) -> bool:
        """Whether an action may change the row's states while it reads what it reads now."""
        return any(action.will_edit(self.row) for action in self.actions)

    @property
    def tries(self) -> bool:
        """Whether an action may begin trials."""
        return any(action.tries for action in self.actions)

    def sampling_now(self, opened: Action | None = None) -> Sampling:
        """How the next token is drawn: greedily in a trial, else as the actions have it.

        One of these may be a gate, which counts as open.
        """
        if self.row.trial is not None:
            return Sampling()
        sampling = self.sampling
        for action in self.actions:
            of_action = action.opened_sampling if action is opened else action.sampling
            sampling = of_action(self.row, sampling)
        return sampling

    def accept(self, token: int, end_ids: frozenset[int]) -> None:
        """Appends a token, and ends the row if the token or a limit ends it; not in a trial."""
        row = self.row
        row.token_ids.append(token)
        row.candidate = None
        if row.trial is not None:
            return
        if token in end_ids:
            self.stop_reason = "eos"
        elif self.stops and self._stopped(token):
            self.stop_reason = "stop"
        elif len(row.token_ids) >= row.limit:
            self.stop_reason = "length"
        elif len(row.prompt_ids) + len(row.token_ids) >= self.context:
            self.stop_reason = "context"

    def _stopped(self, token: int) -> bool:
        texts = [stop for stop in self.stops if isinstance(stop, str)]
        if token in self.stops or not texts:
            return token in self.stops
        # A character is at most four tokens of a byte-level vocabulary.
        recent = self.row.token_ids[-4 * max(map(len, texts)) :]
        written = self.row.tokenizer.decode(recent)
        return any(text in written for text in texts)


@dataclass
class Turn:
    """An action, and the jobs of a view on which it acts at the same time.

    Attributes:
        action: The action.
        places: The jobs' places in the view.
        rows: Their rows.
    """

    action: Action
    places: list[int]
    rows: list[Row]


@dataclass
class View:
    """Jobs whose activations are the rows of one tensor, in this order."""

    jobs: Sequence[Job]

    @cached_property
    def rows(self) -> list[Row]:
        """The jobs' rows."""
        return [job.row for job in self.jobs]

    @cached_property
    def _plans(self) -> dict[str, list[Turn]]:
        return {}

    @cached_property
    def candidates(self) -> Candidates:
        """What the jobs draw."""
        return Candidates(self.rows)

    def acting(self, what: str, acts: Callable[[Action], bool]) -> list[Turn]:
        """Actions in the order in which they act, each with its jobs in this view.

        Args:
            what: Names the question that `acts` answers; the view remembers the answers by it.
            acts: Whether an action takes part.
        """
        if what not in self._plans:
            plan: list[Turn] = []
            for turn in range(max((len(job.actions) for job in self.jobs), default=0)):
                entries: dict[int, Turn] = {}
                for place, job in enumerate(self.jobs):
                    if turn < len(job.actions) and acts(job.actions[turn]):
                        action = job.actions[turn]
                        entry = entries.setdefault(id(action), Turn(action, [], []))
                        entry.places.append(place)
                        entry.rows.append(job.row)
                plan += entries.values()
            self._plans[what] = plan
        return self._plans[what]

    def apply(
        self,
        plan: Iterable[Turn],
        change: Callable[[Action, Tensor, list[Row]], Tensor],
        tensor: Float[Tensor, "rows ..."],
    ) -> Float[Tensor, "rows ..."]:
        """What a tensor becomes when each action changes its own rows of it."""
        for turn in plan:
            if len(turn.places) == len(self.jobs):
                tensor = change(turn.action, tensor, turn.rows)
                continue
            index = on_device(tuple(turn.places), tensor.device)
            part = tensor[index]
            changed = change(turn.action, part, turn.rows)
            if changed is not part:
                tensor = tensor.index_copy(0, index, changed)
        return tensor
