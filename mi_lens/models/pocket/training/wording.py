"""The words of the traces, and the writer that chooses among them.

Every slot of a sentence has several options, so that no single word is indispensable. Most choices
depend on the number written last, so that greedy decoding is as varied as the training text.
"""

import re
from random import Random

REFLECTION_WORDS = ("Wait", "Hmm", "Hold", "Actually")
TRANSITION_WORDS = ("Alternatively",)
REFLECTING = REFLECTION_WORDS + TRANSITION_WORDS

# Probability that the number written last decides a choice; otherwise it is drawn uniformly.
LEAN = 0.6

OPENINGS = ("Okay, ", "Alright, ", "So ", "Let's see, ", "Well, ", "Right, ", "")
RESTATEMENTS = (
    "we need {}.",
    "we want {}.",
    "this is {}.",
    "I have to find {}.",
    "I should work out {}.",
    "they ask for {}.",
    "the question is {}.",
    "it asks for {}.",
    "our task is {}.",
    "I must get {}.",
)
STARTS = ("First, ", "To begin, ", "Maybe ", "Now ", "Let me start: ", "Here ", "I think ", "")
ESTIMATES = (
    "is about",
    "is roughly",
    "should be",
    "is around",
    "looks like",
    "might be",
    "must be near",
    "comes to",
    "could be",
    "gives perhaps",
)
ALSO = ("Also, ", "Next, ", "Besides, ", "And ", "Here ", "Now ", "")
STEPS = ("Then ", "Now ", "Next, ", "So ", "After that, ", "From there, ", "And ", "This way, ", "")
CONCLUSIONS = ("So ", "Therefore, ", "Thus ", "Hence ", "That means ", "Then ", "In the end, ", "")
RESULTS = (
    "the answer is",
    "the result is",
    "we get",
    "I get",
    "it comes to",
    "that makes",
    "we end up with",
    "it should be",
    "we have",
    "the total is",
)
INTERJECTIONS = ("Wait", "Hmm", "Hold on", "Actually")
DOUBTS = (
    ", let me check that.",
    ", let me verify {}.",
    ", let me make sure.",
    ", let me think again.",
    ", is {} right?",
    ", let me check {}.",
    ", that was too quick.",
    ", I want to verify this.",
    ", I should make sure about {}.",
    ".",
)
FINDINGS = ("So it is", "That makes", "So we get", "This gives", "Thus it is", "Now I get")
CORRECTIONS = (", not {}.", " instead of {}.", ", rather than {}.", ", so {} was wrong.")
CONFIRMATIONS = (
    ", as before.",
    ", which seems right.",
    " again.",
    ", so that was right.",
    " indeed.",
)
OTHER_WAYS = (
    ", another way:",
    ", swap them:",
    ", use another approach:",
    ", turn it around:",
    ", try another method:",
    ", we can also write",
)
AGREEMENTS = (", the same.", ", as before.", " again.", ", which agrees.", ", so it fits.")
BACKWARDS = (" Going back,", " In reverse,", " Undo it:", " We need", "")
HOLDS = (", which fits.", ", as it should be.", ", so it seems right.", ", which is right.", ".")
LAST_WORDS = ("The answer is", "The result is", "Answer:", "So the answer is", "We get")


class Writer:
    """Writes a text with choices that mostly depend on the number written last."""

    def __init__(self, rng: Random):
        self.rng = rng
        self.text = ""
        self.number = 0

    def say(self, text: str) -> None:
        self.text += text
        if numbers := re.findall(r"\d+", text):
            self.number = int(numbers[-1])

    def pick(self, options: tuple[str, ...]) -> str:
        """One of the options; most often the last digit of the number decides which."""
        if self.rng.random() < LEAN:
            return options[self.number % 10 % len(options)]
        return self.rng.choice(options)

    def fraction(self) -> float:
        """A number in [0, 1); most often the second last digit of the number decides it."""
        if self.rng.random() < LEAN:
            return (self.number // 10 % 10) / 10
        return self.rng.random()

    def sentence(self, *slots: tuple[str, ...]) -> str:
        text = "".join(self.pick(slot) for slot in slots)
        return text[0].upper() + text[1:]
