"""The studies, in the order of the gallery: one module a figure."""

STUDIES = (
    "mi_trajectories",
    "peak_statistics",
    "reasoning_against_base",
    "suppression",
)
