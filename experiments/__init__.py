"""The studies, in the order of the gallery: one module a figure."""

STUDIES = ("suppression",)
