"""Interventions that act at words."""

from mi_lens.traces.vocabulary import Words, as_words


class Worded:
    """An intervention with a field `words`, which is converted to a tuple."""

    words: Words

    def __post_init__(self):
        object.__setattr__(self, "words", as_words(self.words))
