"""Which answers are right, and what a condition changes."""
