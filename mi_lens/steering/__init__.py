"""Directions: made from the states of traces, kept in files, tried on held-out thoughts."""
