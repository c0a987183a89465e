"""A different temperature right after thinking tokens."""

from collections.abc import Set
from dataclasses import asdict, dataclass, replace

from mi_lens.interventions.protocol import Action, Intervention
from mi_lens.interventions.row import Row
from mi_lens.interventions.sampling import Sampling
from mi_lens.interventions.words import Worded
from mi_lens.models.model import Model
from mi_lens.traces.vocabulary import Words, word_ids


@dataclass(frozen=True)
class RaiseTemperature(Worded, Intervention):
    """Samples the token after a word at another temperature.

    Attributes:
        words: Words, each with every surface form that is a single token; or token ids.
        temperature: Temperature at which the next token is drawn; 0 is greedy.
    """

    words: Words
    temperature: float

    def __post_init__(self):
        super().__post_init__()
        Sampling(temperature=self.temperature)  # refuses an invalid temperature

    def bind(self, model: Model) -> Action:
        """See `Intervention.bind`."""
        return _Temperature(word_ids(model, self.words), self.temperature)

    def to_json(self):
        """See `Intervention.to_json`."""
        return asdict(self)


class _Temperature(Action):
    def __init__(self, ids: Set[int], temperature: float):
        self.ids, self.temperature = ids, temperature

    def sampling(self, row: Row, sampling: Sampling) -> Sampling:
        """See `Action.sampling`."""
        if row.token_ids and row.consumed in self.ids:
            return replace(sampling, temperature=self.temperature)
        return sampling
