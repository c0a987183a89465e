"""What runs inside vLLM's worker processes: rows, actions and recycling on vLLM's own passes."""
