"""A model, and the little that differs between two classes of it."""
