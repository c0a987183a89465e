"""The states of a model while it generates a trace."""
