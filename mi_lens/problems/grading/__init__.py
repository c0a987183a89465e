"""Whether what a model wrote is right."""
