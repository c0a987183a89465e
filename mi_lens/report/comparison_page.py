"""Writes the page that compares two groups of traces; no model is loaded and no state is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mi_lens.common.provenance import versions
from mi_lens.evaluation.group_accuracy import Accuracies, Outcomes, compare_accuracy, outcomes_of
from mi_lens.evaluation.thought_contrast import (
    Part,
    ThoughtContrast,
    contrast_by_ending,
    contrast_outcomes,
)
from mi_lens.evaluation.word_rates import WordRate, WordRates, common_unit, compare_words
from mi_lens.report.figures import Image, image_of
from mi_lens.report.group_tables import (
    SIGNIFICANT,
    groups_table,
    pairing_in_words,
    thoughts_table,
    words_table,
)
from mi_lens.report.plots.two_groups import thoughts_figure, word_rates_figure
from mi_lens.report.rendering import rendered, written_page
from mi_lens.report.tables import Table
from mi_lens.report.trace_groups import Group, read_groups
from mi_lens.traces.correctness import Labels
from mi_lens.traces.text_pieces import Unit

COMMON = 5  # Problems in which a word must occur to be compared.
FEW = 10  # Bootstrap intervals over fewer problems are too narrow.
MOST_WORDS = 25  # Rows of the table of all words that are not folded.
NAMED = 6  # The opening sentence names at most this many words.
OUTCOMES = ("right", "wrong")


@dataclass(frozen=True)
class Compared:
    """Two groups of traces and all that the page says of them."""

    groups: tuple[Group, Group]
    unit: Unit
    labels: Labels
    outcomes: tuple[Outcomes, Outcomes]
    thinking: WordRates
    every: WordRates
    thoughts: dict[Part, ThoughtContrast]
    accuracy: Accuracies | None

    @property
    def names(self) -> tuple[str, str]:
        """The groups' names."""
        return self.groups[0].name, self.groups[1].name


def write_comparison(
    first: str | Path, second: str | Path, page: str | Path, *, unit: Unit | None = None
) -> Path:
    """Writes one HTML page that compares the words, thoughts and answers of two groups of traces.

    Args:
        first: A file of traces, or a folder that `mi-lens` wrote.
        second: The other one.
        page: The file to write.
        unit: What the length of a trace is counted in; see `compare_words`.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: If there is no such file or folder, or a folder holds no traces.
        ValueError: If a file holds no traces, both hold the same, or their units are mixed.
    """
    compared = _compare(read_groups(first, second), unit)
    text = rendered(
        "comparison.html.j2",
        ("report.css",),
        ("tables.js",),
        names=compared.names,
        conclusion=conclusion(compared),
        warnings=warnings(compared),
        groups=groups_table(compared.groups, compared.outcomes, compared.unit),
        accuracy=accuracy_in_words(compared),
        words=_word_tables(compared),
        images=_images(compared),
        thoughts=_thought_tables(compared),
        settings={"first": str(first), "second": str(second), "unit": compared.unit, **versions()},
    )
    return written_page(text, page)


def _compare(groups: tuple[Group, Group], unit: Unit | None) -> Compared:
    first, second = (group.traces for group in groups)
    unit = unit or common_unit([*first, *second])
    labels, outcomes = outcomes_of(first, second)
    thinking = compare_words(first, second, unit=unit)
    common = min(COMMON, *thinking.pairing.problems)
    return Compared(
        groups=groups,
        unit=unit,
        labels=labels,
        outcomes=outcomes,
        thinking=thinking,
        every=compare_words(first, second, None, unit=unit, minimum_problems=common),
        thoughts=contrast_by_ending(first, second),
        accuracy=compare_accuracy(first, second, outcomes),
    )


def conclusion(compared: Compared) -> tuple[str, str]:
    """Which thinking words differ, and the numbers that this rests on."""
    a, b = compared.names
    rows = compared.thinking.rows
    telling = [row for row in rows if row.per_thousand.p_adjusted <= SIGNIFICANT]
    more = [row for row in telling if (row.per_thousand.difference.mean or 0) > 0]
    less = [row for row in telling if row not in more]
    numbers = (
        f"{pairing_in_words(compared.thinking.pairing)}; {len(telling)} of {len(rows)} thinking "
        f"words differ (p ≤ {SIGNIFICANT:g}, adjusted for all of them)"
    )
    if not telling:
        return f"No thinking word is known to differ between {a} and {b}", numbers
    parts = [
        f"{_named(those)} {how} often" for those, how in ((more, "more"), (less, "less")) if those
    ]
    return f"{a} writes {' and '.join(parts)} than {b}", numbers


def _named(rows: Sequence[WordRate]) -> str:
    rows = sorted(rows, key=lambda row: -abs(row.per_thousand.difference.mean or 0))
    words = [f"“{row.word}”" for row in rows[:NAMED]]
    if len(rows) > NAMED:
        words.append(f"{len(rows) - NAMED} more words")
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def warnings(compared: Compared) -> list[str]:
    """What a reader must know before the numbers: what is not paired, left out or unknown."""
    a, b = compared.names
    pairing = compared.thinking.pairing
    said = []
    if pairing.paired_by is None:
        said.append(
            f"{a} and {b} share no problem. Whatever differs between them may come from the "
            "problems and not from what wrote the traces."
        )
    elif any(pairing.left_out):
        said.append(
            f"Only the {_problems(pairing.problems[0])} that both groups have "
            f"{'is' if pairing.problems[0] == 1 else 'are'} compared. Left out are "
            f"{_problems(pairing.left_out[0])} of {a} and {pairing.left_out[1]} of {b}."
        )
    if min(pairing.problems) < FEW:
        said.append(
            f"The comparison rests on {_problems(min(pairing.problems))}. Intervals over fewer "
            f"than {FEW} are too narrow; the p-values hold for any number."
        )
    first, second = (group.models for group in compared.groups)
    if first != second and compared.unit == "tokens":
        said.append(
            "The groups have different models. If their tokenizers differ, so do their tokens: "
            "compare them in text pieces."
        )
    if compared.accuracy is None:
        said.append(
            "Which answers are right is not known in both groups: there are neither labels nor "
            "gold answers that tell it."
        )
    return said


def _problems(number: int) -> str:
    return f"{number} problem{'' if number == 1 else 's'}"


def accuracy_in_words(compared: Compared) -> str:
    """The accuracy of both groups and their difference, as a sentence."""
    found = compared.accuracy
    if found is None:
        return ""
    a, b = compared.names
    by = "the authors' labels" if compared.labels == "author" else "our grader"
    interval = "Tango" if found.pairing.paired_by else "Newcombe"
    return (
        f"By {by}, {a} has {found.first.in_form('.1f', 100.0)} % right and {b} "
        f"{found.second.in_form('.1f', 100.0)} %: a difference of "
        f"{found.difference.in_form('+.1f', 100.0)} points "
        f"({pairing_in_words(found.pairing)}; 95 % intervals, {interval}'s for the difference)."
    )


def _images(compared: Compared) -> list[Image]:
    a, b = compared.names
    return [
        image_of(
            word_rates_figure({"": compared.thinking}, compared.names),
            None,
            "words",
            {},
            f"Thinking words per 1,000 {compared.unit} of {a} and {b}",
            f"Thinking words per 1,000 {compared.unit}, with 95 % intervals over problems. A star "
            "marks words that differ beyond chance, adjusted for all that are drawn.",
        ),
        image_of(
            thoughts_figure({"": compared.thoughts["all"]}, compared.names),
            None,
            "thoughts",
            {},
            f"Thoughts by class of {a} and {b}",
            "Thoughts per trace, with 95 % intervals over problems.",
        ),
    ]


def _word_tables(compared: Compared) -> list[Table]:
    thinking, every = compared.thinking, compared.every
    return [
        words_table(thinking, compared.names, "Thinking words", len(thinking.rows)),
        words_table(every, compared.names, "All words, the surest differences first", MOST_WORDS),
    ]


def _thought_tables(compared: Compared) -> list[Table]:
    tables = [thoughts_table(compared.thoughts, compared.names, "Thoughts by class")]
    for group, right in zip(compared.groups, compared.outcomes, strict=True):
        if parts := contrast_outcomes(group.traces, right):
            caption = f"Thoughts of right and wrong traces: {group.name}"
            tables.append(thoughts_table(parts, OUTCOMES, caption))
    return tables
