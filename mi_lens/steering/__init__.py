"""Directions: computed from the states of traces, stored in files, tested on held-out thoughts."""
