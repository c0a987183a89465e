"""What runs a model while it writes, one file an engine."""
