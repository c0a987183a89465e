"""Traces, which are generated texts, and their words and thoughts."""
