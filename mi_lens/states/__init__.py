"""What a model held while it wrote a trace."""
