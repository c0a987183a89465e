"""One trace at a time: the number of paper 1, its controls, its peaks and their words."""
