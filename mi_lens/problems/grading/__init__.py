"""Grading: decides whether what a model wrote is right."""
