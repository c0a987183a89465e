"""What a state in the middle of a model would say, read by the model's own unembedding."""
