"""The studies, in the order of the gallery: one module a figure."""

STUDIES = (
    "mi_trajectories",
    "peak_statistics",
    "reasoning_against_base",
    "tokens_at_peaks",
    "suppression",
    "recycling",
    # What is said against paper 1.
    "specificity",
    # Further readings.
    "critical_words",
    "critical_tokens",
    "thought_gains",
    "attention_to",
    "reading_vectors",
)
