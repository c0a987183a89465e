"""Measurements of a single trace: paper 1's MI, its controls, its peaks and the peaks' words."""
