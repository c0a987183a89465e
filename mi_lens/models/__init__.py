"""Loads models, and drives TransformerLens's two model classes in the same way."""
