"""What runs a model while it writes: our own loop and other engines, each in its own file."""
