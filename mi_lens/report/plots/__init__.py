"""Figures, named by what they show."""
