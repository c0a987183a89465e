"""What a model wrote: traces, their words and their thoughts."""
